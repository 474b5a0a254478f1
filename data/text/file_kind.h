// What a file is, by its first bytes or by its name's ending: what is unpacked, and what is no text and is
// refused by name.
#pragma once
#include <string_view>

namespace wuneng {

enum class Packing { none, gzip, bzip2, xz, zstd };  // those that data/text/unpack.h reads

struct FileKind {
  const char* name;    // "a Parquet file"
  Packing packing;     // none: it cannot be read
  const char* remedy;  // what to do with a file that cannot be read
};

// The bytes that kind_of_bytes needs: a tar archive's mark ends at 262.
constexpr int kKindBytes = 512;

// nullptr: none that is known, so it may be text.
const FileKind* kind_of_bytes(std::string_view begin);
// Endings in lower or upper case. nullptr: none that is known.
const FileKind* kind_of_name(std::string_view path);

// The path without the ending of a packing: "a.jsonl" of "a.jsonl.GZ".
std::string_view unpacked_name(std::string_view path);
// Whether the unpacked name ends in .jsonl, .ndjson, .jsonlines or .json.
bool is_json_name(std::string_view path);
// In lower or upper case.
bool has_ending(std::string_view path, std::string_view ending);

}  // namespace wuneng

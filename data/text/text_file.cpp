#include "data/text/text_file.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "data/text/encoding.h"
#include "data/text/file_kind.h"
#include "data/tokenizer/utf8.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr int64_t kBeginning = 1 << 16;
constexpr const char* kBlank = " \t\r\n";
constexpr std::array kForms = {"text", "messages", "conversations", "instruction", "prompt"};

// Names of what is packed are for open_unpacked to hold against the bytes.
void check_name(const std::string& path) {
  const FileKind* kind = kind_of_name(unpacked_name(path));
  require(!kind || kind->packing != Packing::none,
          "{}: expected text, found {} by its name: {} (--format text takes it for text all the same)", path,
          kind ? kind->name : "", kind ? kind->remedy : "");
}

// Whether the first line is a record as data/text/record.h has them.
bool begins_with_record(std::string_view begin) {
  const size_t first = begin.find_first_not_of(kBlank);
  if (first == begin.npos || begin[first] != '{') return false;
  const size_t end = begin.find('\n', first);
  const auto line = nlohmann::json::parse(begin.substr(first, end - first), nullptr, false);
  return line.is_object() &&
         std::any_of(kForms.begin(), kForms.end(), [&](const char* key) { return line.contains(key); });
}

// Without the last bytes, which may be a part of a character.
bool is_text(std::string_view begin) {
  return begin.find('\0') == begin.npos && find_invalid_utf8(begin) + 4 > begin.size();
}

}  // namespace

void check_text_file(const std::string& path, TextFormat format, const std::string& encoding) {
  if (format == TextFormat::by_name) check_name(path);
  const auto stream = open_text(path, encoding);
  const std::string_view begin = stream->peek(kBeginning);
  const size_t zero = begin.find('\0');
  require(
      zero == begin.npos,
      "{}: expected text, found a NUL at byte {}: it is no text, or UTF-16 or UTF-32 without a byte order "
      "mark (--encoding utf-16le)",
      path, zero);
  if (format == TextFormat::by_name && !is_json_name(path)) {
    require(!begins_with_record(begin),
            "{}: expected text, as its name says, found JSON lines: say --format jsonl, or --format text",
            path);
  } else if (format != TextFormat::text) {
    const size_t first = begin.find_first_not_of(kBlank);
    require(first == begin.npos || begin[first] != '[',
            "{}: expected a JSON object on each line, found a list: write its elements one to a line: jq -c "
            "'.[]'",
            path);
  }
}

void check_plain_text_file(const std::string& path) {
  const auto stream = std::make_unique<PeekStream>(ByteStream::open(path));
  const std::string_view begin = stream->peek(kKindBytes);
  const FileKind* kind = kind_of_bytes(begin);
  // An ending is believed where it is about packing, or where the bytes are no text.
  if (const FileKind* said = kind_of_name(path); !kind && said)
    if (said->packing != Packing::none || !is_text(begin)) kind = said;
  constexpr const char* kTokenize = "wuneng tokenize --tokenizer bytes reads it";
  require(!has_wide_mark(begin), "{}: expected text as bytes, found UTF-16 or UTF-32: {}", path, kTokenize);
  require(!kind, "{}: expected text as bytes, found {}: {}", path, kind ? kind->name : "",
          kind && kind->packing == Packing::none ? kind->remedy : kTokenize);
}

}  // namespace wuneng

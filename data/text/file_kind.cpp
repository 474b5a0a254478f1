#include "data/text/file_kind.h"

#include <algorithm>
#include <vector>

namespace wuneng {
namespace {

using namespace std::string_view_literals;

struct Mark {
  std::string_view bytes;
  size_t at = 0;
};

struct Row {
  FileKind kind;
  std::vector<Mark> marks;
  std::vector<std::string_view> endings;
};

constexpr const char* kRepack = "unpack it, or pack it as .gz, .bz2, .xz or .zst";
constexpr const char* kExtract = "unpack it";
constexpr const char* kTable = "write its rows as JSON lines, such as {\"text\": ..}";
constexpr const char* kDocument = "write its text to a file";
constexpr const char* kOther = "text and JSON lines are read";

// No text begins with one of the marks. Endings that are also languages (.br, .pt, .so) are left out.
const std::vector<Row>& rows() {
  static const std::vector<Row> all = {
      {{"a gzip file", Packing::gzip, ""}, {{"\x1f\x8b"sv}}, {".gz", ".gzip", ".bgz"}},
      // After "BZh" and a digit: the first block, or the end of an empty file.
      {{"a bzip2 file", Packing::bzip2, ""},
       {{"1AY&SY"sv, 4}, {"\x17\x72\x45\x38\x50\x90"sv, 4}},
       {".bz2", ".bzip2"}},
      {{"an xz file", Packing::xz, ""}, {{"\xfd\x37zXZ\0"sv}, {"\x5d\0\0"sv}}, {".xz", ".lzma"}},
      // A frame, or one of 16 kinds of frame to skip: pzstd's files begin with one.
      {{"a zstd file", Packing::zstd, ""},
       {{"\x28\xb5\x2f\xfd"sv}, {"\x2a\x4d\x18"sv, 1}},
       {".zst", ".zstd"}},

      {{"an lz4 file", Packing::none, kRepack}, {{"\x04\x22\x4d\x18"sv}, {"\x02\x21\x4c\x18"sv}}, {".lz4"}},
      {{"a compress(1) file", Packing::none, kRepack}, {{"\x1f\x9d"sv}}, {".z"}},
      {{"an lzip file", Packing::none, kRepack}, {{"LZIP\x01"sv}}, {".lz"}},
      {{"an lzop file", Packing::none, kRepack}, {{"\x89LZO\0\r\n\x1a\n"sv}}, {".lzo"}},
      {{"a Snappy file", Packing::none, kRepack}, {{"\xff\x06\0\0sNaPpY"sv}}, {".snappy"}},
      {{"a tar archive", Packing::none, kExtract},
       {{"ustar"sv, 257}},
       {".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"}},
      {{"a zip archive", Packing::none, kExtract},
       {{"PK\x03\x04"sv}, {"PK\x05\x06"sv}, {"PK\x07\x08"sv}},
       {".zip", ".npz"}},
      {{"a 7z archive", Packing::none, kExtract}, {{"7z\xbc\xaf\x27\x1c"sv}}, {".7z"}},
      {{"a rar archive", Packing::none, kExtract}, {{"Rar!\x1a\x07"sv}}, {".rar"}},

      {{"a Parquet file", Packing::none, kTable}, {{"PAR1\x15"sv}, {"PARE\x15"sv}}, {".parquet"}},
      {{"an Arrow file", Packing::none, kTable},
       {{"ARROW1\0\0"sv}, {"FEA1\0"sv}, {"\xff\xff\xff\xff"sv}},
       {".arrow", ".feather"}},
      {{"an ORC file", Packing::none, kTable}, {}, {".orc"}},
      {{"an Avro file", Packing::none, kTable}, {{"Obj\x01"sv}}, {".avro"}},
      {{"a TFRecord file", Packing::none, kTable}, {}, {".tfrecord", ".tfrecords"}},
      {{"an SQLite database", Packing::none, kTable},
       {{"SQLite format 3\0"sv}},
       {".sqlite", ".sqlite3", ".db"}},
      {{"an HDF5 file", Packing::none, kTable}, {{"\x89HDF\r\n\x1a\n"sv}}, {".h5", ".hdf5"}},
      {{"a table (CSV)", Packing::none, kTable}, {}, {".csv", ".tsv"}},
      {{"a spreadsheet", Packing::none, kTable}, {}, {".xls", ".xlsx", ".ods"}},

      {{"a PDF document", Packing::none, kDocument}, {{"%PDF-"sv}}, {".pdf"}},
      {{"a word processor's document", Packing::none, kDocument},
       {{"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"sv}, {"{\\rtf1"sv}},
       {".doc", ".docx", ".odt", ".rtf"}},
      {{"an EPUB book", Packing::none, kDocument}, {}, {".epub"}},

      {{"a NumPy file", Packing::none, kOther}, {{"\x93NUMPY"sv}}, {".npy"}},
      {{"a safetensors file", Packing::none, kOther}, {{"\0\0\0{\""sv, 5}}, {".safetensors"}},
      {{"a GGUF file", Packing::none, kOther}, {{"GGUF\x02\0"sv}, {"GGUF\x03\0"sv}}, {".gguf"}},
      {{"a pickle", Packing::none, kOther},
       {{"\x80\x02"sv}, {"\x80\x03"sv}, {"\x80\x04\x95"sv}, {"\x80\x05\x95"sv}},
       {".pkl", ".pickle", ".pth"}},
      {{"the index of a token file", Packing::none, "a recipe takes it: data.kind = \"tokens\""},
       {{"MMIDIDX\0"sv}},
       {".idx"}},
      {{"a program", Packing::none, kOther}, {{"\x7f\x45LF"sv}}, {".exe", ".dll"}},
      {{"an image", Packing::none, kOther},
       {{"\x89PNG\r\n\x1a\n"sv}, {"\xff\xd8\xff"sv}},
       {".png", ".jpg", ".jpeg", ".gif", ".webp"}},
      {{"a sound or a film", Packing::none, kOther}, {}, {".wav", ".mp3", ".flac", ".ogg", ".mp4", ".webm"}},

      {{"a Git LFS pointer", Packing::none, "get the file that it stands for: git lfs pull"},
       {{"version https://git-lfs.github.com/spec/"sv}},
       {}},
      {{"an unfinished download", Packing::none, "finish or remove it"},
       {},
       {".incomplete", ".crdownload", ".part", ".partial", ".aria2"}},
  };
  return all;
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

template <class Matches>
const FileKind* first(const Matches& matches) {
  const auto at = std::find_if(rows().begin(), rows().end(), matches);
  return at == rows().end() ? nullptr : &at->kind;
}

}  // namespace

const FileKind* kind_of_bytes(std::string_view begin) {
  return first([&](const Row& row) {
    return std::any_of(row.marks.begin(), row.marks.end(), [&](const Mark& mark) {
      return begin.size() >= mark.at && begin.substr(mark.at).starts_with(mark.bytes);
    });
  });
}

const FileKind* kind_of_name(std::string_view path) {
  return first([&](const Row& row) {
    return std::any_of(row.endings.begin(), row.endings.end(),
                       [&](std::string_view ending) { return has_ending(path, ending); });
  });
}

std::string_view unpacked_name(std::string_view path) {
  const FileKind* kind = kind_of_name(path);
  return kind && kind->packing != Packing::none ? path.substr(0, path.rfind('.')) : path;
}

bool is_json_name(std::string_view path) {
  const std::string_view name = unpacked_name(path);
  return has_ending(name, ".jsonl") || has_ending(name, ".ndjson") || has_ending(name, ".jsonlines") ||
         has_ending(name, ".json");
}

bool has_ending(std::string_view path, std::string_view ending) {
  return path.size() >= ending.size() &&
         std::equal(ending.begin(), ending.end(), path.end() - static_cast<std::ptrdiff_t>(ending.size()),
                    [](char a, char b) { return lower(a) == lower(b); });
}

}  // namespace wuneng

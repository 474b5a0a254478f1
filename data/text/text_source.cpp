#include "data/text/text_source.h"

#include <algorithm>
#include <string_view>

#include "data/text/encoding.h"
#include "data/text/file_kind.h"
#include "data/tokenizer/utf8.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr int64_t kPiece = 1 << 18;

bool is_json(const std::string& path, TextFormat format) {
  return format == TextFormat::by_name ? is_json_name(path) : format == TextFormat::json_lines;
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

}  // namespace

// Splits one file at each separator. Holds a piece of the file and the part of a record before it.
struct RawReader::Splitter {
  Splitter(const std::string& path, bool json_, const TextOptions& options)
      : stream(open_text(path, options.encoding)),
        separator(json_ ? "\n" : options.separator),
        longest(options.longest),
        json(json_) {}

  // The next record, blank or not; false at the end.
  bool next(RawRecord& record) {
    record.bytes.clear();
    record.too_long = false;
    record.json = json;
    record.number = ++number;
    while (true) {
      const size_t found = separator.empty() ? std::string::npos : piece.find(separator, searched);
      if (found != std::string::npos) {
        take(record, found);
        at = searched = found + separator.size();
        return true;
      }
      // Keep a tail that may be the beginning of a separator.
      const size_t tail = separator.empty() ? 0 : std::min(piece.size() - at, separator.size() - 1);
      take(record, piece.size() - tail);
      piece.erase(0, piece.size() - tail);
      at = searched = 0;
      if (!refill()) {
        const bool any = !record.bytes.empty() || record.too_long || !piece.empty();
        take(record, piece.size());
        at = searched = piece.size();
        return any;
      }
    }
  }

  std::unique_ptr<ByteStream> stream;
  std::string separator;
  int64_t longest;
  bool json;
  int64_t number = 0;

 private:
  void take(RawRecord& record, size_t end) {
    if (!record.too_long) record.bytes.append(piece, at, end - at);
    at = end;
    if (static_cast<int64_t>(record.bytes.size()) <= longest) return;
    record.too_long = true;
    record.bytes = {};
  }
  bool refill() {
    const size_t before = piece.size();
    piece.resize(before + kPiece);
    const int64_t got = stream->read(piece.data() + before, kPiece);
    piece.resize(before + static_cast<size_t>(got));
    return got > 0;
  }

  std::string piece;
  size_t at = 0, searched = 0;
};

RawReader::RawReader(const TextOptions& options) : options_(options) {
  require(options.longest > 0, "data: longest = {}: expected > 0 bytes", options.longest);
  check_encoding(options.encoding);
  FoundFiles found = find_files(options.paths, options.extensions);
  files_ = std::move(found.files);
  left_out_ = std::move(found.left_out);
  for (const DataFile& file : files_) check_text_file(file.path, options.format, options.encoding);
}
RawReader::~RawReader() = default;

bool RawReader::next(RawRecord& record) {
  while (true) {
    if (splitter_ && splitter_->next(record)) {
      if (!record.too_long && is_blank(record.bytes)) continue;
      record.file = file_;
      return true;
    }
    if (splitter_) bytes_before_ += files_[file_].bytes;
    splitter_.reset();
    if (file_ + 1 >= static_cast<int32_t>(files_.size())) return false;
    const std::string& path = files_[++file_].path;
    splitter_ = std::make_unique<Splitter>(path, is_json(path, options_.format), options_);
  }
}

std::string RawReader::place(const RawRecord& record) const {
  return fmt::format("{} {} {}", files_[record.file].path, record.json ? "line" : "document", record.number);
}

int64_t RawReader::bytes_total() const {
  int64_t bytes = 0;
  for (const DataFile& file : files_) bytes += file.bytes;
  return bytes;
}

int64_t RawReader::bytes_read() const {
  return bytes_before_ + (splitter_ ? splitter_->stream->consumed() : 0);
}

Record parse(const RawRecord& raw, const TextOptions& options) {
  require(!raw.too_long, "expected at most {} bytes, found more (see --longest-bytes)", options.longest);
  if (const size_t bad = find_invalid_utf8(raw.bytes); bad < raw.bytes.size())
    fail(
        "expected UTF-8, found {:#04x} at byte {}: --encoding says which other encoding it is in, such as "
        "latin1",
        static_cast<uint8_t>(raw.bytes[bad]), bad);
  if (raw.json) return parse_record(raw.bytes, options.ignored);
  const size_t zero = raw.bytes.find('\0');
  require(zero == std::string::npos, "expected text, found a NUL at byte {}", zero);
  Record record;
  record.content.text = raw.bytes;
  return record;
}

void BadLines::add(const std::string& place, const std::string& what) {
  constexpr size_t kKept = 10;
  if (rule_ == OnBadLine::stop) fail("{}: {}", place, what);
  ++count_;
  if (first_.size() < kKept) first_.push_back(place + ": " + what);
}

bool TextSource::next(Record& record) {
  RawRecord raw;
  while (reader_.next(raw)) {
    try {
      record = parse(raw, options_);
      return true;
    } catch (const Error& e) {
      bad_.add(reader_.place(raw), e.what());
    }
  }
  return false;
}

}  // namespace wuneng

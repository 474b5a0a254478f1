#include "data/text/text_source.h"

#include <algorithm>
#include <string_view>

#include "data/text/byte_stream.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr int64_t kPiece = 1 << 18;
constexpr std::string_view kByteOrderMark("\xef\xbb\xbf");

bool is_json(const std::string& path, TextFormat format) {
  if (format != TextFormat::by_name) return format == TextFormat::json_lines;
  std::string_view name = path;
  for (const std::string_view packing : {".gz", ".zst"})
    if (name.ends_with(packing)) name.remove_suffix(packing.size());
  return name.ends_with(".jsonl") || name.ends_with(".ndjson") || name.ends_with(".json");
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

}  // namespace

// Splits one file at each separator. Holds a piece of the file and the part of a record before it.
struct RawReader::Splitter {
  Splitter(const std::string& path, bool json_, const TextOptions& options)
      : stream(ByteStream::open(path)),
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
    if (first && piece.starts_with(kByteOrderMark)) piece.erase(0, kByteOrderMark.size());
    first = false;
    return got > 0;
  }

  std::string piece;
  size_t at = 0, searched = 0;
  bool first = true;
};

RawReader::RawReader(const TextOptions& options)
    : options_(options), files_(find_files(options.paths, options.extensions)) {
  require(options.longest > 0, "data: longest = {}: expected > 0 bytes", options.longest);
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
  if (raw.json) return parse_record(raw.bytes);
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

// Text files, plain or JSON lines, packed with gzip or zstd or not, read piece by piece in bounded memory.
//
// Two steps, so that the second can run on all cores: RawReader cuts files into raw records (bytes and where
// they stand), parse() makes a Record of one. TextSource does both, one record after another.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/text/files.h"
#include "data/text/record.h"

namespace wuneng {

enum class TextFormat { by_name, text, json_lines };
enum class OnBadLine { stop, skip };

struct TextOptions {
  std::vector<std::string> paths;       // files, directories or globs
  std::vector<std::string> extensions;  // e.g. {".jsonl.gz", ".txt"}, for directories and globs; empty: any
  // by_name: .jsonl, .ndjson and .json are lines of JSON, everything else is text (.gz and .zst taken off).
  TextFormat format = TextFormat::by_name;
  // Between documents of a text file, e.g. "<|endoftext|>" or "\n\n"; empty: a file is one document. Empty
  // documents are left out.
  std::string separator;
  int64_t longest = int64_t{256} << 20;  // bytes of a line or document; one beyond is bad
  OnBadLine on_bad = OnBadLine::stop;
};

// Where a record stands: lines of JSON are counted as lines, documents of text as documents, from 1.
struct RawRecord {
  std::string bytes;
  int32_t file = 0;
  int64_t number = 0;
  bool json = false;
  bool too_long = false;  // beyond TextOptions::longest: `bytes` is empty
};

// All files' records in order; blank lines and empty documents are passed over.
class RawReader {
 public:
  explicit RawReader(const TextOptions& options);
  ~RawReader();
  bool next(RawRecord& record);  // false at the end

  const std::vector<DataFile>& files() const { return files_; }
  // "file.jsonl.gz line 17" or "file.txt document 3"
  std::string place(const RawRecord& record) const;
  int64_t bytes_total() const;  // of the files as they lie on the disk
  int64_t bytes_read() const;

 private:
  struct Cutter;
  TextOptions options_;
  std::vector<DataFile> files_;
  std::unique_ptr<Cutter> cutter_;  // of the file that is being read
  int32_t file_ = -1;
  int64_t bytes_before_ = 0;  // of the files before it
};

// Error where the record is bad; the message does not say where it stands.
Record parse(const RawRecord& raw, const TextOptions& options);

// Bad lines of a run: the first stops it, or all are counted and the first few are kept to be told.
class BadLines {
 public:
  explicit BadLines(OnBadLine rule) : rule_(rule) {}
  void add(const std::string& place, const std::string& what);
  int64_t count() const { return count_; }
  const std::vector<std::string>& first() const { return first_; }  // at most 10

 private:
  OnBadLine rule_;
  int64_t count_ = 0;
  std::vector<std::string> first_;
};

class TextSource {
 public:
  explicit TextSource(const TextOptions& options)
      : options_(options), reader_(options), bad_(options.on_bad) {}
  bool next(Record& record);  // false at the end
  const BadLines& bad_lines() const { return bad_; }

 private:
  TextOptions options_;
  RawReader reader_;
  BadLines bad_;
};

}  // namespace wuneng

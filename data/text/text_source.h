// Reads text and JSON-lines files, plain or packed and in any encoding, in bounded memory.
//
// In two steps, so that the second can run on all cores: RawReader splits files into raw records (bytes and
// their location), parse() parses one. TextSource does both sequentially.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/text/files.h"
#include "data/text/record.h"
#include "data/text/text_file.h"

namespace wuneng {

enum class OnBadLine { stop, skip };

struct TextOptions {
  std::vector<std::string> paths;       // files, directories or globs
  std::vector<std::string> extensions;  // e.g. {".jsonl.gz", ".txt"}, for directories and globs; empty: any
  TextFormat format = TextFormat::by_name;
  std::string encoding;  // of files without a byte order mark; empty: UTF-8 (see data/text/encoding.h)
  // Between documents of a text file, e.g. "<|endoftext|>" or "\n\n"; empty: a file is one document. Empty
  // documents are skipped.
  std::string separator;
  int64_t longest = int64_t{256} << 20;  // bytes of a line or document; a longer one is a bad line
  OnBadLine on_bad = OnBadLine::stop;
  std::vector<std::string> ignored;  // members of records that need not be understood
};

// A record with its location: the number of the line (JSON) or document (text) in the file, from 1.
struct RawRecord {
  std::string bytes;
  int32_t file = 0;
  int64_t number = 0;
  bool json = false;
  bool too_long = false;  // beyond TextOptions::longest: `bytes` is empty
};

// The records of all files in order, without blank lines and empty documents.
class RawReader {
 public:
  // Looks at every file's beginning (check_text_file).
  explicit RawReader(const TextOptions& options);
  ~RawReader();
  bool next(RawRecord& record);  // false at the end

  // Of directories: see find_files.
  const std::vector<std::string>& left_out() const { return left_out_; }
  // "file.jsonl.gz line 17" or "file.txt document 3"
  std::string place(const RawRecord& record) const;
  int64_t bytes_total() const;  // of the files on disk (compressed)
  int64_t bytes_read() const;

 private:
  struct Splitter;
  TextOptions options_;
  std::vector<DataFile> files_;
  std::vector<std::string> left_out_;
  std::unique_ptr<Splitter> splitter_;  // of the current file
  int32_t file_ = -1;
  int64_t bytes_before_ = 0;  // of earlier files
};

// Throws an Error for a bad record; the message does not contain its location.
Record parse(const RawRecord& raw, const TextOptions& options);

// Policy for bad lines: throw at the first, or count all and keep the first few messages.
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

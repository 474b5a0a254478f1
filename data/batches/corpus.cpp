#include "data/batches/corpus.h"

#include <xxhash.h>

#include <algorithm>
#include <fstream>

#include "data/text/files.h"
#include "data/text/text_file.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

// Consecutive bytes of one file in one split: a document.
struct Document {
  size_t file;
  int64_t offset;  // in the file
  int64_t begin;   // row of its first byte in the split
  int64_t size;
};

struct Stream {
  std::vector<Document> documents;
  int64_t size = 0;

  void append(size_t file, int64_t offset, int64_t bytes) {
    if (!documents.empty()) {
      Document& last = documents.back();
      if (last.file == file && last.offset + last.size == offset) {
        last.size += bytes, size += bytes;
        return;
      }
    }
    documents.push_back({file, offset, size, bytes});
    size += bytes;
  }
};

class ByteCorpus : public Corpus {
 public:
  explicit ByteCorpus(const CorpusOptions& options) {
    FoundFiles found = find_files(options.paths, options.extensions);
    files_ = std::move(found.files);
    left_out_ = describe_left_out(found.left_out);
    require(options.block > 0 && options.held_out_every >= 0,
            "data: block = {} (expected > 0), held_out_every = {} (expected >= 0)", options.block,
            options.held_out_every);
    for (size_t i = 0; i < files_.size(); ++i) {
      check_plain_text_file(files_[i].path);
      const uint64_t name = XXH3_64bits_withSeed(files_[i].name.data(), files_[i].name.size(), options.seed);
      for (int64_t offset = 0; offset < files_[i].bytes; offset += options.block) {
        const int64_t block = offset / options.block;
        const bool held_out = options.held_out_every > 0 &&
                              XXH3_64bits_withSeed(&block, sizeof block, name) % options.held_out_every == 0;
        stream(held_out ? Split::held_out : Split::train)
            .append(i, offset, std::min(options.block, files_[i].bytes - offset));
      }
      for (const uint64_t part : {name, static_cast<uint64_t>(files_[i].bytes)})
        fingerprint_ = XXH3_64bits_withSeed(&part, sizeof part, fingerprint_);
    }
    for (const int64_t part : {options.block, options.held_out_every})
      fingerprint_ = XXH3_64bits_withSeed(&part, sizeof part, fingerprint_);
  }

  int32_t vocab_size() const override { return 256; }
  std::string tokenizer() const override { return "bytes"; }
  int64_t size(Split split) const override { return stream(split).size; }
  int64_t documents(Split split) const override {
    return static_cast<int64_t>(stream(split).documents.size());
  }
  int64_t document_begin(Split split, int64_t document) const override {
    return document < documents(split) ? stream(split).documents[document].begin : size(split);
  }
  uint64_t fingerprint() const override { return fingerprint_; }
  std::string left_out() const override { return left_out_; }

  Sample read(Split split, int64_t begin, int64_t count) const override {
    const Stream& s = stream(split);
    WUNENG_ASSERT(begin >= 0 && count >= 0 && begin + count <= s.size);
    Sample sample;
    sample.tokens.reserve(count);
    sample.labels.reserve(count);
    auto document = std::upper_bound(s.documents.begin(), s.documents.end(), begin,
                                     [](int64_t row, const Document& d) { return row < d.begin; });
    for (int64_t row = begin; row < begin + count;) {
      const Document& d = *(document++ - 1);
      const int64_t at = row - d.begin, rows = std::min(d.size - at, begin + count - row);
      const std::string bytes = read_bytes(files_[d.file], d.offset + at, std::min(rows + 1, d.size - at));
      sample.document_begin.push_back(row - begin);
      for (int64_t i = 0; i < rows; ++i) {
        sample.tokens.push_back(static_cast<uint8_t>(bytes[i]));
        const bool last = i + 1 == static_cast<int64_t>(bytes.size());
        sample.labels.push_back(last ? kNoLabel : static_cast<uint8_t>(bytes[i + 1]));
      }
      row += rows;
    }
    return sample;
  }

 private:
  // Opened for each read: no limit on the number of files, and no state shared between threads.
  static std::string read_bytes(const DataFile& file, int64_t offset, int64_t count) {
    std::string bytes(count, '\0');
    std::ifstream in(file.path, std::ios::binary);
    require(in.good(), "{}: cannot be read; it had {} bytes at the start of the run", file.path, file.bytes);
    in.seekg(offset);
    in.read(bytes.data(), count);
    require(in.gcount() == count,
            "{}: expected {} bytes at {}, found {}: it changed since the start of the run", file.path, count,
            offset, in.gcount());
    return bytes;
  }

  Stream& stream(Split split) { return streams_[split == Split::held_out]; }
  const Stream& stream(Split split) const { return streams_[split == Split::held_out]; }

  std::vector<DataFile> files_;
  std::string left_out_;
  Stream streams_[2];
  uint64_t fingerprint_ = 0;
};

}  // namespace

bool has_labels(const Corpus& corpus, Split split) {
  constexpr int64_t kRows = 1 << 16;
  for (int64_t begin = 0, size = corpus.size(split); begin < size; begin += kRows) {
    const Sample sample = corpus.read(split, begin, std::min(kRows, size - begin));
    if (std::any_of(sample.labels.begin(), sample.labels.end(), [](int32_t l) { return l != kNoLabel; }))
      return true;
  }
  return false;
}

std::unique_ptr<Corpus> open_byte_corpus(const CorpusOptions& options) {
  return std::make_unique<ByteCorpus>(options);
}

}  // namespace wuneng

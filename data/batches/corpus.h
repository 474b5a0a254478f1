// A corpus: documents laid end to end as two token streams, one to train on and one held out.
//
// A stream is addressed by row, reading is pure, and the two streams depend on the files and CorpusOptions
// alone: every rank sees the same corpus without a word between them.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/micro_batch.h"

namespace wuneng {

enum class Split { train, held_out };

// Consecutive rows of a stream.
struct Sample {
  std::vector<int32_t> tokens;  // [n]
  std::vector<int32_t> labels;  // [n] the document's next token; kNoLabel at its last
  // The row of each document's first token here; row 0 always, even mid-document.
  std::vector<int64_t> document_begin;
};

// What any source of tokens answers, bytes or a tokenizer's.
class Corpus {
 public:
  virtual ~Corpus() = default;
  virtual int32_t vocab_size() const = 0;
  // What made the tokens (TextCodec::name()); empty where nobody knows.
  virtual std::string tokenizer() const = 0;
  virtual int64_t size(Split split) const = 0;  // rows of the stream
  virtual int64_t documents(Split split) const = 0;
  // The row where a document begins; size() for the number after the last document.
  virtual int64_t document_begin(Split split, int64_t document) const = 0;
  // Rows [begin, begin + count). The last label looks one row further, where the document does.
  virtual Sample read(Split split, int64_t begin, int64_t count) const = 0;
  // Equal where the streams are: what ranks compare at the start and a checkpoint's cursor is valid for.
  virtual uint64_t fingerprint() const = 0;
};

// Which files, and which part of them is held out.
struct CorpusOptions {
  std::vector<std::string> paths;       // files, directories (searched to the bottom) or globs
  std::vector<std::string> extensions;  // e.g. {".txt", ".md"}, for directories and globs; empty: any
  int64_t held_out_every = 64;          // about one block in so many is held out; 0: none
  int64_t block = 4096;                 // bytes
  uint64_t seed = 0;                    // of the choice of blocks
};

// Text files as bytes: the token is the byte, the vocabulary 256, each file one document.
//
// Block b of a file is held out when xxh3(seed, file, b) mod held_out_every == 0. Blocks rather than whole
// files, because one rule then serves both kinds of corpus: a file below the block size is held out whole or
// not at all, and one large file still gives a held-out part spread over all of it. Adding files or appending
// to them moves no other block. Where the other stream cut a piece out, a new document begins, so that
// nothing reads across the gap. A file is known by its path below the entry of `paths` that found it, so the
// split survives a move of the folder.
std::unique_ptr<Corpus> open_byte_corpus(const CorpusOptions& options);

}  // namespace wuneng

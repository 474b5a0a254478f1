// A corpus: two splits, training and held-out, each the concatenation of documents.
//
// A split is addressed by row and reading is pure. The splits depend only on the files and the options, so
// every rank sees the same corpus without communication.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/micro_batch.h"

namespace wuneng {

enum class Split { train, held_out };

// Consecutive rows of a split.
struct Sample {
  std::vector<int32_t> tokens;  // [n]
  std::vector<int32_t> labels;  // [n] the document's next token; kNoLabel at its last
  // First row of each document in the sample; always contains row 0, even if it is inside a document.
  std::vector<int64_t> document_begin;
};

// The interface of all sources of tokens, bytes or token files.
class Corpus {
 public:
  virtual ~Corpus() = default;
  virtual int32_t vocab_size() const = 0;
  // The tokenizer that made the tokens (TextCodec::name()); empty if unknown.
  virtual std::string tokenizer() const = 0;
  virtual int64_t size(Split split) const = 0;  // rows of the split
  virtual int64_t documents(Split split) const = 0;
  // First row of a document; size() for document = documents().
  virtual int64_t document_begin(Split split, int64_t document) const = 0;
  // Rows [begin, begin + count). The label of the last row is the next token if its document continues.
  virtual Sample read(Split split, int64_t begin, int64_t count) const = 0;
  // What was not taken for data, for the user (describe_left_out); "" for nothing.
  virtual std::string left_out() const { return ""; }
  // Equal if the splits are equal. Compared over ranks at the start and with a checkpoint on resume.
  virtual uint64_t fingerprint() const = 0;
};

// The files, and the part of them that is held out.
struct CorpusOptions {
  std::vector<std::string> paths;       // files, directories (recursive) or globs
  std::vector<std::string> extensions;  // e.g. {".txt", ".md"}, for directories and globs; empty: any
  int64_t held_out_every = 64;          // on average one block in held_out_every is held out; 0: none
  int64_t block = 4096;                 // bytes
  uint64_t seed = 0;                    // of the choice of blocks
};

// Whether any row of the split has a label; reads up to the first.
bool has_labels(const Corpus& corpus, Split split);

// Text files as bytes: a token is a byte, the vocabulary has 256, each file is one document. A file that is
// packed or no text is an error (check_plain_text_file).
//
// Block b of a file is held out if xxh3(seed, file, b) mod held_out_every == 0. Blocks rather than whole
// files serve both many small files, which are held out whole or not at all, and one large file, whose
// held-out part is spread over all of it. Adding files or appending to them does not change the split of
// other blocks. A new document begins after a block that belongs to the other split, so that no document
// spans a gap. A file is identified by its path relative to the entry of `paths` that found it, so the split
// does not change if a directory is moved.
std::unique_ptr<Corpus> open_byte_corpus(const CorpusOptions& options);

}  // namespace wuneng

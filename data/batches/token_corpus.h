// A corpus over token files (data/token_files/token_file.h), documents laid end to end in the files' order.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/batches/corpus.h"

namespace wuneng {

struct TokenCorpusOptions {
  // Prefixes (the path without .bin and .idx), .idx or .bin files, directories or globs.
  std::vector<std::string> paths;
  int32_t vocab_size = 0;  // of the tokenizer that made them; a token beyond is an error where it is read
  int64_t held_out_every = 64;  // about one document in so many is held out; 0: none
  uint64_t seed = 0;            // of the choice of documents
};

// A document is held out, whole, when xxh3(seed, its number in its file) mod held_out_every == 0. Its number
// and not its tokens: opening reads the index alone, however large the files, and a file that grows at its
// end or moves keeps its split. Where a mask of labels lies beside a file (<prefix>_mask), only tokens it
// marks are labels.
std::unique_ptr<Corpus> open_token_corpus(const TokenCorpusOptions& options);

}  // namespace wuneng

// A corpus over token files (data/token_files/token_file.h): their documents concatenated in the order of the
// files.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/batches/corpus.h"

namespace wuneng {

// Of what all processes of a run check together, the part of one of them.
struct CheckShare {
  int rank = 0, ranks = 1;
};

struct TokenCorpusOptions {
  // Prefixes (the path without .bin and .idx), .idx or .bin files, directories or globs.
  std::vector<std::string> paths;
  int32_t vocab_size = 0;       // of the model; a token outside [0, vocab_size) is an error
  int64_t held_out_every = 64;  // on average one document in held_out_every is held out; 0: none
  uint64_t seed = 0;            // of the choice of documents
  CheckShare share;
};

// Opening checks that tokens are in the vocabulary and masks are 0 or 1: by <prefix>.json where it describes
// the files, else by reading this process's share of them.
//
// A document is held out if xxh3(seed, its index in its file) mod held_out_every == 0. It depends on the
// index and not on the tokens, so that a file that is moved or appended to keeps its split. If a file has a
// loss mask (<prefix>_mask), only tokens with mask 1 are labels.
std::unique_ptr<Corpus> open_token_corpus(const TokenCorpusOptions& options);

}  // namespace wuneng

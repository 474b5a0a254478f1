// A tokenizer's files as Hugging Face writes them, read into what our tokenizer needs. A scheme that is not
// Qwen2.5's is refused by the name of the key that says so.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/byte_pairs.h"

namespace wuneng {

struct TokenizerFiles {
  std::string source;  // the file that the vocabulary came from, for messages
  std::vector<std::pair<std::string, int32_t>> vocabulary;  // byte-level token, id
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<AddedToken> added;                            // by id
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges make of it
};

// Reads directory/tokenizer.json; where there is none, vocab.json, merges.txt and tokenizer_config.json.
TokenizerFiles read_tokenizer_files(const std::string& directory);

}  // namespace wuneng

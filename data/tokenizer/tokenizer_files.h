// Reads the files of a Hugging Face tokenizer of byte-level byte pairs. What is not understood is an Error
// that names the file and the key.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/tokenizer_scheme.h"

namespace wuneng {

struct TokenizerFiles {
  std::string source;  // the file with the vocabulary, for error messages
  std::vector<std::pair<std::string, int32_t>> vocabulary;  // byte-level token, id
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<AddedToken> added;                            // by id
  TokenizerScheme scheme;
  std::string unknown;         // the token of a byte that has none; empty: such a byte has no token
  bool fuse_unknown = false;   // several such bytes beside each other are one token
  bool ignore_merges = false;  // a word that is a token is encoded as it, without merges
};

// Reads directory/tokenizer.json or, if it does not exist, vocab.json, merges.txt and tokenizer_config.json.
TokenizerFiles read_tokenizer_files(const std::string& directory);

// What tokenizer_config.json says of bos_token, eos_token, ...; none where there is no such file or key.
std::optional<std::string> special_token(const std::string& directory, const std::string& key);

}  // namespace wuneng

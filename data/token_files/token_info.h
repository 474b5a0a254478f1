// Provenance of a pair of token files: <prefix>.json. It is not part of Megatron's format, and files from
// elsewhere have none; if it exists, a run checks at its start that the tokens match the model's vocabulary
// without reading them.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace wuneng {

struct TokenInfo {
  std::string tokenizer;             // TextCodec::name()
  int32_t vocab_size = 0;            // of the tokenizer
  std::string kind;                  // to_string(DataKind)
  std::string pair;                  // for preference data: the prefix of the other file of the pair
  std::vector<std::string> sources;  // the paths that were tokenized
  int64_t tokens = -1;               // in the file; -1: not known, as in files of earlier versions
  int64_t highest = -1;              // the highest token; -1: not known, or no token
};

void write_token_info(const std::string& prefix, const TokenInfo& info);
std::optional<TokenInfo> read_token_info(const std::string& prefix);
// Whether <prefix>.json is about the tokens that are there: it has their number and is not older than `bin`,
// one of the files that it was written with.
bool describes(const TokenInfo& info, const std::string& prefix, const std::string& bin, int64_t tokens);

}  // namespace wuneng

// Provenance of a pair of token files: <prefix>.json. It is not part of Megatron's format, and files from
// elsewhere have none; if it exists, a run checks at its start that the tokens match the model's vocabulary.
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
};

void write_token_info(const std::string& prefix, const TokenInfo& info);
std::optional<TokenInfo> read_token_info(const std::string& prefix);

}  // namespace wuneng

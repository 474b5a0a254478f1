// What made a pair of token files: <prefix>.json beside them. Megatron's format has no place for it, and
// files from elsewhere have none, but where it is there a run can tell before it begins that a file's tokens
// are not its model's.
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
  std::string pair;                  // of a preference pair's file: the prefix of the other one
  std::vector<std::string> sources;  // the paths that were tokenized
};

void write_token_info(const std::string& prefix, const TokenInfo& info);
std::optional<TokenInfo> read_token_info(const std::string& prefix);

}  // namespace wuneng

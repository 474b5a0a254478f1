// The tokenizer that a model is used with.
#pragma once
#include <string>
#include <vector>

#include "data/tokenizer/text_codec.h"
#include "model/config.h"

namespace wuneng {

struct ModelCodec {
  TextCodec codec;
  std::string directory;  // of the tokenizer's files; empty for bytes
};

// tokenizer: a directory, or "bytes"; empty: the model's own, or bytes for a model with a vocabulary of 256.
// Throws where there is none and where it has more ids than the model; `what` begins messages.
ModelCodec open_codec(const std::string& what, const std::string& model, const std::string& tokenizer,
                      const std::string& chat_template, int64_t vocab);

// The tokens at which generation ends: the codec's, and the model's eos_token_id.
std::vector<int32_t> end_tokens(const TextCodec& codec, const ModelConfig& config);

}  // namespace wuneng

// The tokens at which a model's generation ends.
#pragma once
#include <vector>

#include "data/tokenizer/text_codec.h"
#include "model/config.h"

namespace wuneng {

// The codec's, and the model's eos_token_id.
std::vector<int32_t> end_tokens(const TextCodec& codec, const ModelConfig& config);

}  // namespace wuneng

// The tokenizer that a model is used with.
#pragma once
#include <string>

#include "data/tokenizer/text_codec.h"

namespace wuneng {

struct ModelCodec {
  TextCodec codec;
  std::string directory;  // of the tokenizer's files; empty for bytes
};

// tokenizer: a directory, or "bytes"; empty: the model's own, or bytes for a model with a vocabulary of 256.
// Throws where there is none and where it has more ids than the model; `what` begins messages.
ModelCodec open_codec(const std::string& what, const std::string& model, const std::string& tokenizer,
                      const std::string& chat_template, int64_t vocab);

}  // namespace wuneng

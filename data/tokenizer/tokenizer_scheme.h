// What a tokenizer.json says beside its vocabulary, for byte-level byte pairs: normalizer, pre_tokenizer and
// post_processor. Kinds that are not in this file's functions are refused by their key and name.
#pragma once
#include <cstdint>
#include <vector>

#include "data/tokenizer/checked_json.h"
#include "data/tokenizer/pretokenizer.h"

namespace wuneng {

struct TokenizerScheme {
  bool nfc = false;                     // the normalizer: NFC or none
  std::vector<PretokenizerStep> steps;  // the pre_tokenizer; at least one
  std::vector<int32_t> before, after;   // the tokens that the post_processor puts around a text
  bool operator==(const TokenizerScheme&) const = default;
};

TokenizerScheme qwen_scheme();
TokenizerScheme gpt2_scheme(bool prefix_space);

// root: the whole tokenizer.json.
//   normalizer      null, NFC, a Sequence of these
//   pre_tokenizer   ByteLevel, or a Sequence of Split (Isolated, by a String or a Regex that
//                   data/tokenizer/split_pattern.h understands) and Digits with ByteLevel at its end
//   post_processor  null, ByteLevel, TemplateProcessing, a Sequence of these
//   decoder         ByteLevel
TokenizerScheme read_tokenizer_scheme(const CheckedJson& root);

}  // namespace wuneng

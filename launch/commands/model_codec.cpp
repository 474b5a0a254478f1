#include "launch/commands/model_codec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "launch/train/checkpoint_weights.h"

namespace wuneng {

ModelCodec open_codec(const std::string& what, const std::string& model, const std::string& tokenizer,
                      const std::string& chat_template, int64_t vocab) {
  ModelCodec out;
  out.directory = tokenizer.empty() ? tokenizer_of(model) : tokenizer;
  const bool found = tokenizer.empty() ? TextCodec::has_tokenizer(out.directory) : tokenizer != "bytes";
  require(found || tokenizer == "bytes" || vocab == 256,
          "{}: {}: expected tokenizer.json or vocab.json, or a byte model (vocabulary 256), found a "
          "vocabulary of {} and no tokenizer; use --tokenizer",
          what, model, vocab);
  if (found)
    out.codec = TextCodec::load(out.directory, chat_template);
  else
    out.directory.clear();
  require(out.codec.vocab_size() <= vocab,
          "{}: expected a tokenizer of at most {} ids, the size of the model's vocabulary, found {}", what,
          vocab, out.codec.vocab_size());
  return out;
}

std::vector<int32_t> end_tokens(const TextCodec& codec, const ModelConfig& config) {
  std::vector<int32_t> out;
  for (int32_t id = 0; id < codec.vocab_size(); ++id)
    if (codec.ends(id)) out.push_back(id);
  if (const auto it = config.carried.find("eos_token_id"); it != config.carried.end()) {
    const auto value = nlohmann::json::parse(it->second);
    for (const auto& id : value.is_array() ? value : nlohmann::json::array({value})) {
      if (id.is_null()) continue;
      require(id.is_number_integer() && id >= 0 && id < config.vocab_size,
              "config.json: eos_token_id: expected token ids from 0 to {}, found {}", config.vocab_size - 1,
              id.dump());
      if (const int32_t token = id; std::find(out.begin(), out.end(), token) == out.end())
        out.push_back(token);
    }
  }
  return out;
}

}  // namespace wuneng

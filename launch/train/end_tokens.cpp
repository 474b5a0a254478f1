#include "launch/train/end_tokens.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace wuneng {

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

// Families of transformers whose config.json and weights are read and written as Hugging Face has them: a
// table of what differs. They share the rest: RMSNorm before each half of a layer, rotary embeddings,
// grouped-query attention, a SwiGLU MLP, and the tensors' names.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace wuneng {

struct Family {
  std::string name;          // model_type in config.json
  std::string architecture;  // its class in transformers
  bool qkv_bias;             // q, k and v have biases; the output never has one
  bool qk_norm;              // RMSNorm of each head of q and k, before the rotary embedding
  // Where config.json does not have the key, as transformers has it:
  int64_t head_dim;        // 0: hidden_size / num_attention_heads
  int64_t kv_heads;        // 0: num_attention_heads
  int64_t sliding_window;  // 0: no such key counts
  // Whether `sliding_window` counts by itself for all layers (Mistral), or with use_sliding_window for those
  // that layer_types or max_window_layers names (Qwen).
  bool windows_all_layers;
  std::vector<std::string> without;  // keys of biases that its models may have and these do not: false
};

const std::vector<Family>& families();
std::vector<std::string> family_names();
// Throws for an unknown name, with those that are known; `where` names the file or recipe.
const Family& family_of(const std::string& name, const std::string& where);
// The first in the table whose attention has these parts. Throws where there is none.
const Family& family_with(bool qkv_bias, bool qk_norm, const std::string& where);

}  // namespace wuneng

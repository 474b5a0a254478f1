#include "model/families.h"

#include <algorithm>

#include "runtime/error.h"

namespace wuneng {

const std::vector<Family>& families() {
  static const std::vector<Family> table = {
      {.name = "qwen2",
       .architecture = "Qwen2ForCausalLM",
       .qkv_bias = true,
       .qk_norm = false,
       .head_dim = 0,
       .kv_heads = 32,
       .sliding_window = 4096,
       .windows_all_layers = false,
       .without = {}},
      {.name = "qwen3",
       .architecture = "Qwen3ForCausalLM",
       .qkv_bias = false,
       .qk_norm = true,
       .head_dim = 128,
       .kv_heads = 32,
       .sliding_window = 4096,
       .windows_all_layers = false,
       .without = {"attention_bias"}},
      {.name = "llama",
       .architecture = "LlamaForCausalLM",
       .qkv_bias = false,
       .qk_norm = false,
       .head_dim = 0,
       .kv_heads = 0,
       .sliding_window = 0,
       .windows_all_layers = false,
       .without = {"attention_bias", "mlp_bias"}},
      {.name = "mistral",
       .architecture = "MistralForCausalLM",
       .qkv_bias = false,
       .qk_norm = false,
       .head_dim = 0,
       .kv_heads = 8,
       .sliding_window = 4096,
       .windows_all_layers = true,
       .without = {}},
  };
  return table;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const Family& family : families()) names.push_back(family.name);
  return names;
}

const Family& family_of(const std::string& name, const std::string& where) {
  const auto found = std::find_if(families().begin(), families().end(),
                                  [&](const Family& family) { return family.name == name; });
  require(found != families().end(), "{}: unknown family '{}': expected one of {}", where, name,
          fmt::join(family_names(), ", "));
  return *found;
}

const Family& family_with(bool qkv_bias, bool qk_norm, const std::string& where) {
  const auto found = std::find_if(families().begin(), families().end(), [&](const Family& family) {
    return family.qkv_bias == qkv_bias && family.qk_norm == qk_norm;
  });
  require(found != families().end(),
          "{}: qkv_bias = {}, qk_norm = {}: expected biases or norms of queries and keys, not both", where,
          qkv_bias, qk_norm);
  return *found;
}

}  // namespace wuneng

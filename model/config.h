// ModelConfig: the shape of a model and every option of WuNeng, as config.json of a Hugging Face directory
// spells them.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "runtime/tensor.h"

namespace wuneng {

enum class Combine {
  concat,
  sum,
  learned
};  // how the states or the middles join the layer's output (model.md, row "a")

// The options of model.md. Names of values are the ones in config.json and recipes.
struct WunengConfig {
  int64_t state_heads = 0;  // N; G divides N, N divides H
  bool token_shift = true;
  std::string state_query = "grouped";  // grouped | full
  std::string state_key = "own";        // own | shared
  int64_t state_rank = 0;               // 0: full matrices
  std::string state_read = "linear";    // linear | quadratic
  std::string state_norm = "rms";       // rms | none
  double state_norm_eps = 1e-2;         // of rms
  std::vector<std::string> state_value = {"token", "attention", "middle"};
  std::string cross_head = "concat";     // none | concat | additive | gated
  std::string combine_state = "concat";  // concat | sum | learned
  std::string combine_middle = "learned";
  bool multi_token = true;
  int64_t chunk = 256;  // m
  int64_t decay_rank = 32, rate_rank = 32;

  bool value_from(const char* what) const;
  bool middles() const { return cross_head != "none"; }
  bool middle_feedback() const { return middles() && value_from("middle"); }
  bool loops() const { return multi_token || middle_feedback(); }  // does the layer go chunk by chunk?
};

struct ModelConfig {
  std::string mixer = "qwen2";  // qwen2 | wuneng
  int64_t hidden_size = 0, intermediate_size = 0, num_layers = 0;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;  // H, G, D
  int64_t vocab_size = 0;
  float rope_theta = 1e6f, rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = true;
  WunengConfig wuneng;

  bool is_wuneng() const { return mixer == "wuneng"; }
  // Throws with the equation that does not hold. `where` names the file or recipe.
  void check(const std::string& where) const;

  static ModelConfig from_json(const nlohmann::json& json, const std::string& where);
  static ModelConfig from_directory(const std::string& directory);  // its config.json
  nlohmann::json to_json() const;
};

// The presets `full`, `lean` and `literal` of model.md for a model of this shape.
WunengConfig preset(const std::string& name, const ModelConfig& shape);

// Parameters of a whole model of this configuration, and of the RWKV-7 (ARWKV) student of the same shape.
int64_t parameter_count(const ModelConfig& config);
int64_t rwkv7_student_parameter_count(const ModelConfig& config);

}  // namespace wuneng

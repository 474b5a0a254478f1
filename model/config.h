// ModelConfig: the shape of a model, its family, which mixer each layer has and the mixers' options, as
// config.json of a Hugging Face directory spells them.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/options.h"
#include "model/rope_settings.h"
#include "model/sliding_window.h"

namespace wuneng {

struct ModelConfig {
  // The largest sizes: no product of them overflows.
  static constexpr int64_t kMaxHidden = 1 << 20, kMaxIntermediate = 1 << 24, kMaxLayers = 1 << 14,
                           kMaxHeads = 1 << 14, kMaxHeadDim = 1 << 10, kMaxVocabulary = INT32_MAX;

  std::string mixer = "attention";              // of every layer that layer_mixers does not name
  std::map<int64_t, std::string> layer_mixers;  // layer -> its mixer
  std::map<std::string, OptionValues> options;  // mixer -> its options
  int64_t hidden_size = 0, intermediate_size = 0, num_layers = 0;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;  // H, G, D
  int64_t vocab_size = 0;
  float rope_theta = 1e6f, rms_norm_eps = 1e-6f;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = true;
  // What the layers of mixers with attention have (model/families.h). A student has its teacher's.
  std::string family = "qwen2";
  bool qkv_bias = true, qk_norm = false;
  SlidingWindow window;
  // What a config.json says beyond this, for other programs: key -> JSON, such as eos_token_id -> 151645.
  std::map<std::string, std::string> carried;

  const std::string& mixer_of(int64_t layer) const;
  std::vector<std::string> mixers() const;  // those in use, in the order of their first layers
  bool is_plain() const;                    // is every layer's mixer attention alone?
  std::string architecture() const;         // its class in transformers, such as "Qwen2ForCausalLM"
  int64_t window_of(int64_t layer) const { return window.of(layer); }
  const OptionValues& options_of(const std::string& mixer) const;
  // Gives all layers this mixer, with the options of a preset (empty: the default ones).
  void set_mixer(const std::string& mixer, const std::string& preset = "");
  void set_family(const std::string& name);  // with what its attention has, and no window
  // Throws with the equation that does not hold. `where` names the file or recipe.
  void check(const std::string& where) const;
  void check_sizes(const std::string& where) const;  // the part of it that needs no mixers

  // Both throw where a value is not of its type or range, and for a model that computes something else than
  // this program would: other families, other scalings of rotary embeddings, quantised weights.
  // model/config_json.cpp.
  static ModelConfig from_json(const nlohmann::json& json, const std::string& where);
  static ModelConfig from_directory(const std::string& directory);  // its config.json
  nlohmann::json to_json() const;
};

// "0:attention" or "5-7:wuneng" (layers count from 0) to layer -> mixer, and back. Throws for layers that a
// model of `num_layers` does not have, for unknown mixers, and for a layer that is named twice.
std::map<int64_t, std::string> parse_layer_mixers(const std::vector<std::string>& entries, int64_t num_layers,
                                                  const std::string& where);
std::vector<std::string> layer_mixers_to_text(const std::map<int64_t, std::string>& layer_mixers);

}  // namespace wuneng

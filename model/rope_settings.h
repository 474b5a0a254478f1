// The rotary embedding in a config.json, in the spellings of transformers' versions.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>
#include <vector>

namespace wuneng {

struct PlainRope {};  // not scaled

// Every frequency divided by `factor`.
struct LinearScaling {
  double factor = 1;
};

// YaRN (arXiv 2309.00071), as transformers has it: channels that turn more than beta_fast times within
// `original_length` tokens keep their frequency, those that turn less than beta_slow times have it divided by
// `factor`, and between the two lies a ramp. Queries and keys are multiplied by `attention_factor`.
struct YarnScaling {
  double factor = 1, attention_factor = 1, beta_fast = 32, beta_slow = 1;
  int64_t original_length = 0;  // tokens that the model was trained for before
  bool truncate = true;         // the ramp's ends are whole channels
};

// Llama 3.1's, as transformers has it: channels that turn more than `high` times within `original_length`
// tokens keep their frequency, those that turn less than `low` times have it divided by `factor`, and between
// the two lies a ramp over turns.
struct Llama3Scaling {
  double factor = 1, low = 1, high = 4;  // low_freq_factor and high_freq_factor
  int64_t original_length = 0;
};

using RopeScaling = std::variant<PlainRope, LinearScaling, YarnScaling, Llama3Scaling>;

// With transformers' defaults for all but these two; factor > 1.
YarnScaling yarn_scaling(double factor, int64_t original_length);

struct RopeSettings {
  float theta;
  RopeScaling scaling;
};

// rope_theta, also inside rope_parameters or rope_scaling (10000 where there is none), and the scaling.
// Throws where two differ, and for an embedding that is scaled by another type than "linear", "yarn" and
// "llama3", or over a part of the channels.
RopeSettings read_rope_settings(const nlohmann::json& config, const std::string& where);
// The value of rope_scaling in a config.json; null for a plain one.
nlohmann::json rope_scaling_json(const RopeScaling& scaling);

// [head_dim / 2], radians a token: theta^(-2i / head_dim), scaled.
std::vector<double> rope_frequencies(float theta, const RopeScaling& scaling, int64_t head_dim);
// What queries and keys are multiplied by.
double rope_attention_factor(const RopeScaling& scaling);

}  // namespace wuneng

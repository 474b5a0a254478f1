// The options of mixer wuneng: their table, presets and typed values (docs/model.md, "One layer").
#pragma once
#include "model/config.h"
#include "model/mixers/registry.h"

namespace wuneng {

OptionTable wuneng_options();
std::vector<Preset> wuneng_presets();  // full (the default), lean, literal
void check_wuneng(const ModelConfig& config, const OptionValues& values, const std::string& where);

struct WunengOptions {
  int64_t state_heads, state_rank, chunk, decay_rank, rate_rank;
  bool grouped_query, own_key, quadratic_read, token_shift, rms, multi_token, learn_initial_state;
  float norm_eps;
  std::string cross_head, combine_state, combine_middle;
  bool value_token, value_attention, value_middle;

  explicit WunengOptions(const OptionValues& values);
  bool middles() const { return cross_head != "none"; }
  bool loops() const { return multi_token || value_middle; }  // does the layer go chunk by chunk?
};

}  // namespace wuneng

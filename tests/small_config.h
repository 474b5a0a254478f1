// A small model with several heads a key, for tests of generation.
#pragma once
#include <string>

#include "model/config.h"

namespace wuneng {

inline ModelConfig small_config(const std::string& mixer, int64_t vocab) {
  ModelConfig c{.hidden_size = 32,
                .intermediate_size = 40,
                .num_layers = 2,
                .num_heads = 4,
                .num_kv_heads = 2,
                .head_dim = 8,
                .vocab_size = vocab,
                .rope_theta = 100};
  c.set_mixer(mixer);
  if (mixer == "wuneng") c.options["wuneng"]["chunk"] = int64_t{8};
  return c;
}

}  // namespace wuneng

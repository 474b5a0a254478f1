// A mixer that the program does not have, as docs/extending.md adds one: this file and register_mixer().
//
// The values are v = x W_v^T, in every toy layer but the first plus `share` times the first one's:
// a = v W_o^T. No token sees another.
#pragma once
#include <cmath>

#include "model/mixers/registry.h"

namespace wuneng {

class ToyMixer : public Mixer {
 public:
  explicit ToyMixer(const LayerContext& at) {
    const int64_t d = at.config.hidden_size, width = at.options().integer("width");
    const Init matrix = added(normal(1 / std::sqrt(float(d)))), none = added(constant(0));
    v_ = at.store.sharded_evenly(at.prefix + "toy.v.weight", {width, d}, matrix, 0);
    share_ = at.store.whole(at.prefix + "toy.share", {1},
                            added(constant(float(at.options().number("share")))), true);
    o_ = at.store.sharded_evenly(at.prefix + "toy.o.weight", {d, width}, matrix, 1);
  }

  Projections forward(Tape& tape, const Var& x, const DocumentLayout&, CarriedVars& carried,
                      const LayerCache*) const override {
    Var v = ops::linear(tape, x, v_);
    if (const auto first = carried.find("toy_values"); first != carried.end()) {
      const auto as_one_head = [&](const Var& x) { return ops::reshape(tape, x, {x.dim(0), 1, x.dim(1)}); };
      v = ops::reshape(tape, ops::add_scaled_heads(tape, as_one_head(v), as_one_head(first->second), share_),
                       v.shape());
    } else {
      carried["toy_values"] = v;
    }
    return {{v, o_}};
  }
  CachedTensors cache() const override { return {}; }

  static MixerType type() {
    MixerType type{.name = "toy", .architecture = "ToyForCausalLM", .help = "no token sees another"};
    type.options = {
        Option::integer(
            "width", [](const ModelConfig& c, const OptionValues&) -> OptionValue { return c.hidden_size; },
            1, "channels of the values, default: hidden_size"),
        Option::number("share", 0.5, 0, 1, "of the first layer's values in the later ones'")};
    type.starts_from = {"attention"};
    type.carried = [](const ModelConfig& c, int ranks, int rank) -> std::vector<CarriedTensor> {
      return {{"toy_values", shard_range(c.options_of("toy").integer("width"), ranks, rank).size()}};
    };
    type.make = [](const LayerContext& at) { return std::make_unique<ToyMixer>(at); };
    return type;
  }

  // Once in a process, whichever test is first.
  static void register_once() {
    static const bool done = [] {
      register_mixer(type());
      return true;
    }();
    (void)done;
  }

 private:
  const Parameter *v_, *share_, *o_;
};

}  // namespace wuneng

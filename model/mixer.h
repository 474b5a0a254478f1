// Mixers: what stands where a transformer has its attention. x [T, d] normalised input -> what is projected
// back to a [T, d].
#pragma once
#include <memory>

#include "model/head_shards.h"
#include "model/packing.h"
#include "model/parameter_store.h"
#include "model/projection.h"
#include "runtime/comm.h"

namespace wuneng {

class Mixer {
 public:
  virtual ~Mixer() = default;
  // x is equal on all tensor-parallel ranks; each gives its part of the sum.
  virtual Projections forward(Tape& tape, const Var& x, const Packing& packing) const = 0;
};

// prefix: "model.layers.3.self_attn."
std::unique_ptr<Mixer> make_attention_mixer(const ModelConfig& config, ParameterStore& store, const Comm& tp,
                                            const std::string& prefix);
std::unique_ptr<Mixer> make_wuneng_mixer(const ModelConfig& config, ParameterStore& store, const Comm& tp,
                                         const std::string& prefix);

// Qwen2's projections, which both mixers have (biases on q, k and v only).
struct Qwen2Projections {
  const Parameter *q, *q_bias, *k, *k_bias, *v, *v_bias, *o;
  static Qwen2Projections make(const ModelConfig& config, ParameterStore& store, const HeadShards& heads,
                               const std::string& prefix);
};

}  // namespace wuneng

// The optimizer: AdamW on this rank's shards, or on parts of them (ZeRO-1: the other data-parallel ranks
// update the others, and WeightGather passes them on). Ranks that update the same element hold the same
// gradient after GradientSums::finish, and so compute the same update without communication.
#pragma once
#include "parallel/parameter.h"

namespace wuneng {

struct AdamwOptions {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f;
  float weight_decay = 0.1f;  // decoupled; only where Parameter::decays
};

class Optimizer {
 public:
  // Holds state for the trainable ones of `parts`, which are f32 or bf16. The first update is step 1.
  Optimizer(const std::vector<ParameterPart>& parts, const AdamwOptions& options, const Stream& stream = {});

  // One update with every gradient multiplied by gradient_scale, [1] f32 where the parts are (clip_scale);
  // undefined: 1. Then the parts' gradients are zero. Where the scale is NaN nothing else changes, and
  // was_skipped() is to be called when that is known.
  void step(double lr, const Tensor& gradient_scale = {});
  void was_skipped() { --steps_; }
  int64_t steps_done() const { return steps_; }
  void set_steps_done(int64_t steps) { steps_ = steps; }

  // Of one part, f32 [elements.size()] each. `master` is the weight that is updated: the parameter's own
  // tensor where that is f32, else the f32 tensor that the bf16 one is rounded from.
  struct State {
    ParameterPart part;
    Tensor master, m, v;

    bool has_master() const { return part.parameter->var.value().dtype() == DType::bf16; }
  };
  const std::vector<State>& states() const { return states_; }

  // What it holds besides the parameters, for a checkpoint: "<parameter>/master", "<parameter>/m",
  // "<parameter>/v".
  struct NamedTensor {
    std::string name;
    Tensor tensor;
    ParameterPart part;
  };
  std::vector<NamedTensor> named_tensors() const;
  int64_t bytes() const;  // of named_tensors()

  void write_back() const;  // bf16 parameters from their masters, after the masters were loaded

 private:
  std::vector<State> states_;
  AdamwOptions options_;
  Stream stream_;
  int64_t steps_ = 0;
};

// The factor that brings a gradient with this squared norm, [1] f64, down to a norm of at most max_norm (0:
// no clipping), [1] f32: see kernels/clip.h.
Tensor clip_scale(const Tensor& squared_norm, double max_norm);

}  // namespace wuneng

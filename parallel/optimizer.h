// The optimizer: AdamW on this rank's shards, and the learning rate's schedule. Ranks that hold the same element hold the same gradient after
// synchronize_gradients, and so compute the same update.
#pragma once
#include "parallel/parameter.h"

namespace wuneng {

struct LearningRate {
  double peak = 3e-4, floor = 0;
  int64_t warmup = 0, steps = 1;
  // Linear from peak / warmup to peak, then a cosine down to the floor at `steps`. step counts from 0.
  double at(int64_t step) const;
};

struct AdamwOptions {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f;
};

class Optimizer {
 public:
  // Holds state for the trainable ones of `parameters`. The master weight is the parameter itself where that is f32.
  Optimizer(const Parameters& parameters, const AdamwOptions& options, const Stream& stream = {});

  // One update with every gradient multiplied by gradient_scale; then the gradients are zero.
  void step(double lr, double gradient_scale);
  int64_t steps_done() const { return steps_; }
  void set_steps_done(int64_t steps) { steps_ = steps; }

  struct State {
    const Parameter* parameter;
    Tensor master, m, v;  // f32, of the parameter's local shape
  };
  const std::vector<State>& states() const { return states_; }
  void write_back();  // bf16 parameters from their masters, after the masters were loaded

 private:
  std::vector<State> states_;
  AdamwOptions options_;
  Stream stream_;
  int64_t steps_ = 0;
};

}  // namespace wuneng

// AdamW with decoupled weight decay, one fused pass over a shard.
#pragma once
#include "kernels/twin.h"

namespace wuneng::kernels {

// All of n elements. Per element, with g the clipped gradient:
//   m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
//   + decay w)
struct AdamwArgs {
  Tensor master, m, v, gradient;  // f32
  Tensor stored;  // bf16 copy of master to write, or undefined where master is the parameter itself
  float lr, beta1, beta2, eps, decay;
  float gradient_scale;  // clipping
  int64_t step;          // t, from 1
};
WUNENG_KERNEL(adamw, AdamwArgs);

}  // namespace wuneng::kernels

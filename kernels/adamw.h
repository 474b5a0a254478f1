// AdamW (Loshchilov and Hutter 2019, decoupled weight decay), one fused pass over all shards of a rank.
#pragma once
#include <cmath>
#include <vector>

#include "kernels/backend.h"

namespace wuneng::kernels {

// One parameter shard with its gradient and optimizer state, all of n elements.
struct AdamwTensors {
  Tensor master, m, v;  // f32
  Tensor gradient;      // f32; set to zero by the kernel
  Tensor stored;        // out: master rounded to bf16; undefined where master is the parameter itself
  float decay;
};

// Per element, with g the clipped gradient:
//   m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
//   + decay w)
struct AdamwArgs {
  std::vector<AdamwTensors> tensors;
  float lr, beta1, beta2, eps;
  // [1] f32, where the tensors are (kernels/clip.h); undefined: 1. NaN: there is no update, only gradients
  // are set to zero.
  Tensor gradient_scale;
  int64_t step;  // t, from 1

  float rate() const { return static_cast<float>(lr / (1 - std::pow(double(beta1), double(step)))); }
  // The factor of sqrt(v).
  float correction() const {
    return static_cast<float>(1 / std::sqrt(1 - std::pow(double(beta2), double(step))));
  }
};
WUNENG_KERNEL(adamw, AdamwArgs);

}  // namespace wuneng::kernels

// Normalisations of rows: RMSNorm with a weight, L2, and the mean taken off, which makes a group norm of an
// RMSNorm.
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

// y = x * rsqrt(mean(x^2) + eps) * w over the last dimension D. Rows are [T, H, D] flattened; row i uses
// weight row i mod H, so a hidden state has H = 1 and per-head norms share the kernel. With a base, x + base
// is normalised, and written to sum (residual add and norm in one pass).
struct RmsNormArgs {
  Tensor x;       // [T, H, D] (or [T, D])
  Tensor weight;  // weight, H * D elements
  float eps;
  Tensor y;          // as x
  Tensor base, sum;  // as x; undefined: no base; sum may alias x or base
};
WUNENG_KERNEL(rms_norm, RmsNormArgs);

// Accumulates into dweight (f32, H * D). dx and dweight may be undefined: not computed.
struct RmsNormBackwardArgs {
  Tensor x, weight;
  float eps;
  Tensor dy;
  Gradient dx;
  Tensor dweight;
};
WUNENG_KERNEL(rms_norm_backward, RmsNormBackwardArgs);

// y = x / max(|x|_2, 1e-12) over the last dimension.
struct L2NormArgs {
  Tensor x, y;  // [.., D]
};
WUNENG_KERNEL(l2_norm, L2NormArgs);

struct L2NormBackwardArgs {
  Tensor x, dy;
  Gradient dx;
};
WUNENG_KERNEL(l2_norm_backward, L2NormBackwardArgs);

// y = x - mean(x) over the last dimension. It is its own gradient.
struct CenterArgs {
  Tensor x;    // [.., D]
  Gradient y;  // as x
};
WUNENG_KERNEL(center, CenterArgs);

}  // namespace wuneng::kernels

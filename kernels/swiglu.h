// SwiGLU (Shazeer 2020, arXiv 2002.05202) of a gate and what it gates in the two halves of each row, as one
// product with both matrices leaves them.
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

// y [T, F] = silu(a) b, with x [T, 2 F] = (a, b)
struct SwigluArgs {
  Tensor x, y;
};
WUNENG_KERNEL(swiglu, SwigluArgs);

struct SwigluBackwardArgs {
  Tensor x;     // [T, 2 F]
  Tensor dy;    // [T, F]
  Gradient dx;  // [T, 2 F]
};
WUNENG_KERNEL(swiglu_backward, SwigluBackwardArgs);

}  // namespace wuneng::kernels

// Elementwise functions and their gradients.
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

enum class Pointwise {
  silu,     // a sigmoid(a)
  tanh,     // tanh(a)
  sigmoid,  // sigmoid(a)
  mix,      // c a + (1 - c) b: the gated middle head's input (model.md Eq. 8), c the gate
  add,      // a + b
  gate,     // a (1 + b): the ARWKV student's gate
};

struct PointwiseArgs {
  Pointwise function;
  Tensor a, b, c;  // the inputs in the function's formula, all of one shape
  Tensor y;
};
WUNENG_KERNEL(pointwise, PointwiseArgs);

// Gradients of the inputs in the function's formula; those of mix, add and gate may be undefined: not
// computed.
struct PointwiseBackwardArgs {
  Pointwise function;
  Tensor a, b, c, y, dy;
  Gradient da, db, dc;
};
WUNENG_KERNEL(pointwise_backward, PointwiseBackwardArgs);

}  // namespace wuneng::kernels

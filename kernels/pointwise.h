// Functions of single elements, and their gradients.
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

enum class Pointwise {
  silu,     // a sigmoid(a)
  tanh,     // tanh(a)
  sigmoid,  // sigmoid(a)
  swiglu,   // silu(a) b
  mix,      // c a + (1 - c) b: the gated middle head's input (model.md Eq. 8), c the gate
  add,      // a + b
};

struct PointwiseArgs {
  Pointwise function;
  Tensor a, b, c;  // inputs that the function names, all of one shape
  Tensor y;
};
WUNENG_KERNEL(pointwise, PointwiseArgs);

// Gradients of the inputs that the function names; those of swiglu, mix and add may be undefined: not wanted.
struct PointwiseBackwardArgs {
  Pointwise function;
  Tensor a, b, c, y, dy;
  Gradient da, db, dc;
};
WUNENG_KERNEL(pointwise_backward, PointwiseBackwardArgs);

}  // namespace wuneng::kernels

// Functions of single elements, and their gradients.
#pragma once
#include "kernels/twin.h"

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

// Adds to the gradients of the inputs that the function names: to all of them, but for `add`'s, which may be
// undefined.
struct PointwiseBackwardArgs {
  Pointwise function;
  Tensor a, b, c, y, dy;
  Tensor da, db, dc;
};
WUNENG_KERNEL(pointwise_backward, PointwiseBackwardArgs);

}  // namespace wuneng::kernels

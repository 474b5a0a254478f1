// Gradient: the destination of a gradient that a kernel computes: out = base + gradient, elementwise.
#pragma once
#include <utility>

#include "runtime/tensor.h"

namespace wuneng {

struct Gradient {
  Tensor out;   // undefined: the gradient is not computed
  Tensor base;  // undefined: zero, out is overwritten; may be out itself

  Gradient() = default;
  Gradient(const Tensor& sum) : out(sum), base(sum) {}  // accumulates into `sum`
  Gradient(Tensor to, Tensor from) : out(std::move(to)), base(std::move(from)) {}

  bool defined() const { return out.defined(); }
  // Copies base to out and returns out: for kernels that can only accumulate.
  const Tensor& begun() const {
    if (!base.defined())
      out.zero();
    else if (base.raw() != out.raw())
      out.copy_from(base);
    return out;
  }
};

}  // namespace wuneng

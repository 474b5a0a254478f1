// Where a kernel puts a gradient: out = base + what it computes, element by element.
#pragma once
#include <utility>

#include "runtime/tensor.h"

namespace wuneng {

struct Gradient {
  Tensor out;   // undefined: the gradient is not wanted
  Tensor base;  // undefined: nothing is there yet, out is only written; may be out

  Gradient() = default;
  Gradient(const Tensor& sum) : out(sum), base(sum) {}  // what is computed is added to it
  Gradient(Tensor to, Tensor from) : out(std::move(to)), base(std::move(from)) {}

  bool defined() const { return out.defined(); }
  // out, when it holds base: for a kernel that can only add.
  const Tensor& begun() const {
    if (!base.defined())
      out.zero();
    else if (base.raw() != out.raw())
      out.copy_from(base);
    return out;
  }
};

}  // namespace wuneng

// cublasLt, row-major: one strided batch of products with an epilogue (bias, accumulation, bias gradient).
#pragma once
#include <cstdint>

#include "runtime/tensor.h"

namespace wuneng::kernels::cuda {

// One matrix of a product: its first element, its row stride and the step from one product of the batch to
// the next, in elements.
struct Factor {
  const void* data;
  int64_t ld;
  int64_t step = 0;
  bool transpose = false;
};

// out [m, n] = scale op(a) op(b) + accumulate from + bias, for each of `batch` products.
//
// a and b are both of `type` (f32 or bf16); out is f32, or bf16 if they are, and starts at the tensor's first
// element; `from` and bias are of out's type. Accumulation is in f32, and f32 operands are not rounded to
// tf32. The algorithm is the first one of cublasLt's heuristic, chosen once per shape and cached, until
// another is chosen by time (kernels/timed_products.h): the same product gives the same bits.
struct Product {
  DType type;
  int64_t m, n, k, batch = 1;
  Factor a, b;
  float scale = 1, accumulate = 0;
  const void* from = nullptr;  // cublasLt's C [m, n], strides as out's; null: out itself
  const void* bias = nullptr;  // [n]; null: none
  float* sums = nullptr;       // out [m]: row sums of op(a), needs out f32; null: not computed
  Tensor out;
  int64_t ld, step = 0;
};

// Does nothing if m, n or batch is 0. Returns false, with nothing done, if `sums` is set and cublasLt has no
// algorithm with that epilogue; throws if it has none without it.
bool multiply(const Stream& stream, const Product& product);

}  // namespace wuneng::kernels::cuda

// cublasLt, row-major: one strided batch of products, with what is cheap to do on the way out.
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
// a and b are both of `type` (f32 or bf16); out, whose memory begins that of the tensor, is f32, or bf16
// where they are; `from` and bias are of out's type. Sums are f32, f32 factors are not shortened. The
// algorithm is cublasLt's first guess for the shape, asked for once: the same product gives the same bits.
struct Product {
  DType type;
  int64_t m, n, k, batch = 1;
  Factor a, b;
  float scale = 1, accumulate = 0;
  const void* from = nullptr;  // [m, n], strides as out's; null: out itself
  const void* bias = nullptr;  // [n]; null: none
  float* sums = nullptr;       // [m], written: sums of op(a)'s rows, out being f32; null: not wanted
  Tensor out;
  int64_t ld, step = 0;
};

// Nothing happens where m or n is 0. False, with nothing done, where `sums` are wanted and cublasLt has no
// algorithm that forms them; throws where it has none for anything else.
bool multiply(const Stream& stream, const Product& product);

}  // namespace wuneng::kernels::cuda

// cuBLAS, row-major: one strided batch of products.
#pragma once
#include <cstdint>

#include "runtime/tensor.h"

namespace wuneng::kernels::cuda {

// One operand of a product: its first element, its row stride and the step from one product of the batch to
// the next, in elements.
struct Factor {
  const void* data;
  int64_t ld;
  int64_t step = 0;
  bool transpose = false;
};

// c [m, n] = scale op(a) op(b) + accumulate c for each of `batch` products; a and b are both of `type` (f32
// or bf16), c, whose memory begins that of the tensor, is f32, or bf16 where they are; sums are f32. Nothing
// happens where m or n is 0.
void gemm(const Stream& stream, DType type, int64_t m, int64_t n, int64_t k, float scale, const Factor& a,
          const Factor& b, float accumulate, const Tensor& c, int64_t ldc, int64_t c_step = 0,
          int64_t batch = 1);

}  // namespace wuneng::kernels::cuda

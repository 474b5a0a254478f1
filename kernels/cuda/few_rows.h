// Products of few rows with a large matrix, as generation has them: the time is that of reading the matrix,
// so it is read once, in its own type.
#pragma once
#include "runtime/tensor.h"

namespace wuneng::kernels::cuda {

// c[m, n] = scale b_scale[n] a[m] . b[n] + accumulate c[m, n] + base[m, n] + bias[n], for m < M <=
// kFewRowsOnGpu, n < N, K elements in a row, and for each of `batch` products. Every tensor starts at its
// first element; steps from one row, and from one product, to the next are in elements. Rows of b are
// contiguous. Sums are f32; a row of c is to the bit what it is alone.
struct FewRows {
  Tensor a;  // f32 or bf16
  int64_t lda, a_step = 0;
  Tensor b;  // f32, bf16, f16 or i8
  int64_t b_step = 0;
  Tensor c;     // f32 or bf16
  Tensor base;  // as c, may be c; undefined: none
  int64_t ldc, c_step = 0;
  Tensor bias;     // [N] f32 or bf16; undefined: none
  Tensor b_scale;  // [N] f32; undefined: 1
  float scale = 1, accumulate = 0;
  int64_t M, N, K, batch = 1;
};
void few_rows(const Stream& stream, const FewRows& args);

}  // namespace wuneng::kernels::cuda

// Products of few rows with a large matrix, as generation has them: the time is that of reading the matrix,
// so it is read once, in its own type. Each element of the result is summed in one order, whatever the number
// of rows and threads.
#pragma once
#include "runtime/tensor.h"

namespace wuneng::kernels::cpu {

// c[m, n] = scale a[m] . b[n] + base[m, n] + bias[n] for all m < M and n in [begin, end); elements of b are
// f32, bf16, f16 or, times b_scale[n], i8 from element `first` on. Row strides are in elements. base may be
// c; base, bias and b_scale may be null.
struct FewRows {
  const float* a;
  int64_t lda;
  const Tensor& b;
  int64_t first, ldb;
  float* c;
  int64_t ldc;
  const float* base;
  const float* bias;
  const float* b_scale;
  float scale;
  int64_t M, K;
};
void few_rows(const FewRows& args, int64_t begin, int64_t end);

}  // namespace wuneng::kernels::cpu

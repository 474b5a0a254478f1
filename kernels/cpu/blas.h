// oneDNN's sgemm, row-major, one thread per call: parallel_for splits the work, so that there is one thread
// pool. (Compared with OpenBLAS in tests/bench/bench_matmul.cpp.)
#pragma once
#include <cstdint>

namespace wuneng::kernels::cpu {

// c [m, n] (row stride ldc) = alpha op(a) op(b) + beta c, op transposes if the flag is set. Strides are in
// elements. Does nothing if m or n is 0.
void sgemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
           int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

}  // namespace wuneng::kernels::cpu

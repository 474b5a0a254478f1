#include "kernels/cpu/blas.h"

#include <fmt/format.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include "runtime/error.h"

namespace wuneng::kernels::cpu {

void sgemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
           int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  // oneDNN splits a product over OpenMP threads, whose number is a setting per calling thread.
  thread_local const bool alone = (omp_set_num_threads(1), true);
  if (!alone || m == 0 || n == 0) return;
  if (k == 0) {  // not supported by oneDNN
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == 0 ? 0.0f : beta * c[i * ldc + j];
    return;
  }
  const dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, alpha, a,
                                          lda, b, ldb, beta, c, ldc);
  if (status != dnnl_success)
    fail("matrix product [{}, {}] x [{}, {}], row strides {}, {} and {}: oneDNN status {}", m, k, k, n, lda,
         ldb, ldc, static_cast<int>(status));
}

}  // namespace wuneng::kernels::cpu

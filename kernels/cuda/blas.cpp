#include "kernels/cuda/blas.h"

#include <cublas_v2.h>

#include <map>
#include <mutex>

#include "runtime/error.h"

namespace wuneng::kernels::cuda {
namespace {

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("{}: {}", call, cublasGetStatusString(status));
}

cublasHandle_t handle_for(const Stream& stream) {
  static std::mutex mutex;
  static std::map<void*, cublasHandle_t> handles;  // by stream: a handle belongs to one
  const std::lock_guard lock(mutex);
  const auto [at, fresh] = handles.try_emplace(stream.handle);
  if (fresh) {
    check(cublasCreate(&at->second), "cublasCreate");
    check(cublasSetStream(at->second, static_cast<cudaStream_t>(stream.handle)), "cublasSetStream");
  }
  return at->second;
}

}  // namespace

void gemm(const Stream& stream, DType type, int64_t m, int64_t n, int64_t k, float scale, const Factor& a,
          const Factor& b, float accumulate, const Tensor& c, int64_t ldc, int64_t c_step, int64_t batch) {
  if (m == 0 || n == 0 || batch == 0) return;
  const auto i = [](int64_t x) { return static_cast<int>(x); };
  const auto op = [](const Factor& x) { return x.transpose ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const auto kind_of = [](DType t) { return t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; };
  const cudaDataType_t kind = kind_of(type);
  // cuBLAS is column-major: it sees every matrix transposed, so it computes c^T = op(b)^T op(a)^T.
  check(cublasGemmStridedBatchedEx(handle_for(stream), op(b), op(a), i(n), i(m), i(k), &scale, b.data, kind,
                                   i(b.ld), b.step, a.data, kind, i(a.ld), a.step, &accumulate, c.raw(),
                                   kind_of(c.dtype()), i(ldc), c_step, i(batch), CUBLAS_COMPUTE_32F,
                                   CUBLAS_GEMM_DEFAULT),
        "cublasGemmStridedBatchedEx");
}

}  // namespace wuneng::kernels::cuda

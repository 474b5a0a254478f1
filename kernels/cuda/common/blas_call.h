// A product in cublasLt's terms: for the files that call cublasLt.
#pragma once
#include <cublasLt.h>

#include <compare>
#include <map>
#include <mutex>
#include <vector>

#include "kernels/cuda/common/blas.h"

namespace wuneng::kernels::cuda {

inline constexpr int64_t kBlasWorkspace = 32 << 20;  // bytes, cuBLAS's recommendation for Hopper

void check_blas(cublasStatus_t status, const char* call);

// The largest power of two that divides the address, at most 256.
uint32_t alignment_of(const void* p);

// Everything that the choice of an algorithm may depend on: Product's members, and alignments in bytes.
struct ProductKey {
  int64_t type, out_type, m, n, k, batch;
  int64_t a_ld, a_step, a_transpose, b_ld, b_step, b_transpose, ld, step;
  int64_t epilogue, accumulates, in_place;
  int64_t align_a, align_b, align_from, align_out, align_vector;
  auto operator<=>(const ProductKey&) const = default;
};

// cublasLt is column-major and sees every matrix transposed, so it computes out^T = op(b)^T op(a)^T: its
// first operand is our second.
struct BlasCall {
  const Product& p;
  const void* from;
  cublasLtMatmulDescOpaque_t what;
  cublasLtMatrixLayoutOpaque_t a, b, out;

  explicit BlasCall(const Product& p);
  ProductKey key() const;
  // The heuristic's algorithms, the most promising one first; none where it has none for this epilogue.
  std::vector<cublasLtMatmulAlgo_t> candidates(cublasLtHandle_t handle, int most);
  cublasStatus_t run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm, const Tensor& workspace,
                     cudaStream_t stream);

 private:
  cublasLtEpilogue_t epilogue() const;
};

// Per stream, because products in two streams may run at the same time and need a workspace each.
struct BlasContext {
  cublasLtHandle_t handle = nullptr;
  Tensor workspace;
  struct Choice {
    bool found = false;
    bool timed = false;
    cublasLtMatmulAlgo_t algorithm{};
  };
  std::map<ProductKey, Choice> choices;

  explicit BlasContext(Device device);
  static BlasContext& of(const Stream& stream);
  static std::mutex& mutex();  // to be held while a context is used
};

}  // namespace wuneng::kernels::cuda

#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "runtime/cuda/check.h"
#include "runtime/error.h"

namespace wuneng::kernels::cuda {
namespace {

// The driver's, without a link to it: the program starts where there is none.
auto* encode() {
  static auto* const found = [] {
    void* at = nullptr;
    cudaDriverEntryPointQueryResult result;
    wuneng::cuda::check(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &at, 12000, cudaEnableDefault, &result),
        "cuTensorMapEncodeTiled");
    if (result != cudaDriverEntryPointSuccess) fail("this GPU's driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(at);
  }();
  return found;
}

}  // namespace

CUtensorMap map_of_rows(const Tensor& x, int rows) {
  constexpr cuuint64_t kPanel = 64;  // channels: what the swizzle spans
  const cuuint64_t T = x.dim(0), heads = x.dim(1), D = x.dim(2);
  const cuuint64_t dims[4] = {kPanel, T, D / kPanel, heads}, strides[3] = {2 * heads * D, 2 * kPanel, 2 * D};
  const auto panels = static_cast<cuuint32_t>(D / kPanel);
  const cuuint32_t box[4] = {kPanel, static_cast<cuuint32_t>(rows), panels, 1}, steps[4] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, x.raw(), dims, strides, box,
                                   steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail("a map of {} rows of {} was refused: error {}", rows, to_string(x.shape()),
         static_cast<int>(result));
  return map;
}

}  // namespace wuneng::kernels::cuda

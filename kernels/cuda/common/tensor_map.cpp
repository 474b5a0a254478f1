#include "kernels/cuda/common/tensor_map.h"

#include <cuda_runtime.h>

#include "runtime/cuda/check.h"
#include "runtime/error.h"

namespace wuneng::kernels::cuda {
namespace {

// The driver's function, looked up at run time: the program must start on machines without a driver.
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

// Lengths in elements, strides of dimensions 1 to 3 in bytes.
CUtensorMap map_of(const Tensor& x, CUtensorMapDataType type, CUtensorMapSwizzle swizzle,
                   const cuuint64_t (&dims)[4], const cuuint64_t (&strides)[3], const cuuint32_t (&box)[4]) {
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode()(&map, type, 4, x.raw(), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail("cuTensorMapEncodeTiled of a tensor {}: CUresult {}", to_string(x.shape()),
         static_cast<int>(result));
  return map;
}

}  // namespace

CUtensorMap map_of_rows(const Tensor& x, int rows) {
  constexpr cuuint64_t kPanel = 64;  // channels: what the swizzle spans
  const cuuint64_t T = x.dim(0), heads = x.dim(1), D = x.dim(2);
  return map_of(x, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_SWIZZLE_128B,
                {kPanel, T, D / kPanel, heads}, {2 * heads * D, 2 * kPanel, 2 * D},
                {kPanel, static_cast<cuuint32_t>(rows), static_cast<cuuint32_t>(D / kPanel), 1});
}

CUtensorMap map_of_numbers(const Tensor& x, int count) {
  const cuuint64_t rows = x.dim(0), each = x.numel() / x.dim(0), all = 4 * each * rows;
  return map_of(x, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, CU_TENSOR_MAP_SWIZZLE_NONE, {each, rows, 1, 1},
                {4 * each, all, all}, {static_cast<cuuint32_t>(count), 1, 1, 1});
}

}  // namespace wuneng::kernels::cuda

// Small tables that the host makes for a launch.
#pragma once
#include <vector>

#include "runtime/tensor.h"

namespace wuneng::kernels::cuda {

// [count] of `type` on the device. A table of the same content that was asked for before is given again
// without a copy: a layer's tables are those of the layer before it. Not to be written to.
Tensor upload(const void* values, int64_t count, DType type, Device device);

template <class T>
Tensor upload(const std::vector<T>& values, Device device) {
  return upload(values.data(), static_cast<int64_t>(values.size()), dtype_of<T>, device);
}

}  // namespace wuneng::kernels::cuda

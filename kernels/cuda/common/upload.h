// Small tables that the host makes for a launch, cached by their content.
#pragma once
#include <vector>

#include "runtime/tensor.h"

namespace wuneng::kernels::cuda {

// [count] of `type` on the device. A table with the same content as an earlier one is returned from a cache
// without a copy: the layers of a micro-batch use the same tables. Read-only.
Tensor upload(const void* values, int64_t count, DType type, Device device);

template <class T>
Tensor upload(const std::vector<T>& values, Device device) {
  return upload(values.data(), static_cast<int64_t>(values.size()), dtype_of<T>, device);
}

}  // namespace wuneng::kernels::cuda

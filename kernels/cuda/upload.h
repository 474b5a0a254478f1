// Small tables that the host makes for a launch.
#pragma once
#include <vector>

#include "runtime/tensor.h"

namespace wuneng::kernels::cuda {

template <class T>
Tensor upload(const std::vector<T>& values, Device device) {
  return Tensor::from<T>(values, {static_cast<int64_t>(values.size())}).to(device);
}

}  // namespace wuneng::kernels::cuda

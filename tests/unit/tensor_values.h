// The elements of a tensor on any device, for comparisons.
#pragma once
#include <vector>

#include "runtime/tensor.h"

namespace wuneng {

template <class T = int32_t>
std::vector<T> values(const Tensor& tensor) {
  const Tensor host = tensor.to(Device{});
  return {host.data<T>(), host.data<T>() + host.numel()};
}

}  // namespace wuneng

// The elements of a host tensor, for comparisons.
#pragma once
#include <vector>

#include "runtime/tensor.h"

namespace wuneng {

template <class T = int32_t>
std::vector<T> values(const Tensor& tensor) {
  return {tensor.data<T>(), tensor.data<T>() + tensor.numel()};
}

}  // namespace wuneng

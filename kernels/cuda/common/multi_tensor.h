// One launch for many tensors: each thread block takes kBlockElements elements of one of them.
#pragma once
#include <vector>

#include "kernels/cuda/common/upload.h"

namespace wuneng::kernels::cuda {

inline constexpr int64_t kBlockElements = 1 << 16;  // elements

// [blocks, 2]: for each thread block its tensor's index and its first element in that tensor.
inline Tensor block_table(const std::vector<int64_t>& sizes, Device device) {
  std::vector<int64_t> flat;
  for (size_t i = 0; i < sizes.size(); ++i)
    for (int64_t at = 0; at < sizes[i]; at += kBlockElements)
      flat.insert(flat.end(), {static_cast<int64_t>(i), at});
  return upload(flat, device);
}

// Structs of pointers and numbers as a table in device memory.
template <class T>
Tensor upload_structs(const std::vector<T>& values, Device device) {
  return upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T)), DType::u8, device);
}

}  // namespace wuneng::kernels::cuda

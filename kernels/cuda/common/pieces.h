// One launch for many tensors: they are cut into pieces, and a block takes a piece.
#pragma once
#include <vector>

#include "kernels/cuda/common/upload.h"

namespace wuneng::kernels::cuda {

inline constexpr int64_t kPiece = 1 << 16;  // elements

// [pieces, 2]: the tensor, and its element that the piece begins with.
inline Tensor piece_table(const std::vector<int64_t>& sizes, Device device) {
  std::vector<int64_t> flat;
  for (size_t i = 0; i < sizes.size(); ++i)
    for (int64_t at = 0; at < sizes[i]; at += kPiece) flat.insert(flat.end(), {static_cast<int64_t>(i), at});
  return upload(flat, device);
}

// Structs of pointers and numbers, as a kernel's table.
template <class T>
Tensor upload_structs(const std::vector<T>& values, Device device) {
  return upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T)), DType::u8, device);
}

}  // namespace wuneng::kernels::cuda

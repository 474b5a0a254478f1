// Kernels that work row by row of [.., D]. A row is handled by as many lanes of one warp as it has vectors,
// at most 32.
#pragma once
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {

// A lane's part of a row [D]: every `lanes`-th vector. Lanes past the last row read the last row and store
// nothing, so that all lanes of a warp take part in the shuffles of sum().
template <class T, int N>
struct Row {
  int64_t i, D, H;
  bool there;

  __device__ Row(int64_t rows, int64_t D, int64_t H) : D(D), H(H) {
    i = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
    there = i < rows;
    if (!there) i = rows - 1;
  }
  // f(vector index in the tensor, vector index in the weight [H, D])
  template <class F>
  __device__ void each(F f) const {
    const int64_t begin = i * D, weight = i % H * D;
    for (int64_t c = int64_t{threadIdx.x} * N; c < D; c += int64_t{blockDim.x} * N)
      f(wuneng::cuda::VectorIndex<T, N>{begin + c}, wuneng::cuda::VectorIndex<T, N>{weight + c});
  }
  // The sum of f over the row, in all its lanes.
  template <class F>
  __device__ float sum(F f) const {
    float sum = 0;
    each([&](auto at, auto w) { sum += sum_of(f(at, w)); });
    for (int mask = blockDim.x / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
    return sum;
  }
};

// A kernel is a struct with run(Row).
template <class T, class K>
__global__ void __launch_bounds__(wuneng::cuda::kBlock)
    row_kernel(bool vectorized, int64_t rows, int64_t D, int64_t H, K kernel) {
  if (vectorized)
    kernel.run(Row<T, wuneng::cuda::kVectorLength<T>>(rows, D, H));
  else
    kernel.run(Row<T, 1>(rows, D, H));
}

template <class K>
void for_each_row(const Stream& stream, const char* name, const wuneng::cuda::VectorWidth& tensors,
                  const Tensor& x, int64_t H, K kernel) {
  using namespace wuneng::cuda;
  const int64_t D = x.dim(-1), rows = x.numel() / std::max<int64_t>(1, D);
  const VectorWidth width = tensors.for_units_of(D);
  const int64_t vectors = width.vectorized ? D / width.elements() : D;
  unsigned lanes = 1;
  while (lanes < kWarp && lanes < vectors) lanes *= 2;
  launch(stream, name, width.type == DType::bf16 ? row_kernel<bf16, K> : row_kernel<float, K>,
         dim3(blocks_for(rows, kBlock / lanes)), dim3(lanes, kBlock / lanes), 0, width.vectorized, rows, D, H,
         kernel);
}

}  // namespace wuneng::kernels::cuda

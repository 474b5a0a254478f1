// Sums over rows: out[c] += sum over t of f(t, c), in one fixed order.
#pragma once
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

inline constexpr int kReduceRows = 8;        // rows that a block takes at a time, 32 columns wide
inline constexpr int64_t kRowsAPart = 1024;  // rows behind one partial sum

template <class F>
__global__ void column_partial_kernel(int64_t T, int64_t C, F f, float* partial) {
  __shared__ float sums[kReduceRows][wuneng::cuda::kWarp];
  const int64_t c = int64_t{blockIdx.x} * wuneng::cuda::kWarp + threadIdx.x, first = blockIdx.y * kRowsAPart,
                last = min(T, first + kRowsAPart);
  float sum = 0;
  if (c < C)
    for (int64_t t = first + threadIdx.y; t < last; t += kReduceRows) sum += f(t, c);
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= C) return;
  for (int i = 1; i < kReduceRows; ++i) sum += sums[i][threadIdx.x];
  partial[blockIdx.y * C + c] = sum;
}

// out [C] += the rows of partial [parts, C]
inline __global__ void add_parts_kernel(unsigned parts, int64_t C, const float* partial, float* out) {
  const int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= C) return;
  float sum = 0;
  for (unsigned p = 0; p < parts; ++p) sum += partial[p * C + c];
  out[c] += sum;
}

// f is a __device__ lambda of (row, column), captured by value.
template <class F>
void column_reduce(const Stream& stream, const char* name, int64_t T, int64_t C, const Tensor& out, F f) {
  if (T == 0 || C == 0) return;
  using namespace wuneng::cuda;
  const unsigned parts = blocks_for(T, kRowsAPart);
  const Tensor partial = Tensor::empty({parts, C}, DType::f32, out.device());
  launch(stream, name, column_partial_kernel<F>, dim3(blocks_for(C, kWarp), parts), dim3(kWarp, kReduceRows),
         0, T, C, f, partial.f32());
  launch(stream, name, add_parts_kernel, dim3(blocks_for(C, kBlock)), dim3(kBlock), 0, parts, C,
         partial.f32(), out.f32());
}

}  // namespace wuneng::kernels::cuda

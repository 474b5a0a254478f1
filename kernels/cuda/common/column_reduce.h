// Column sums: out[c] += sum over t of f(t, c), or over groups of columns, in a fixed order of summation. Two
// launches: partial sums of some rows each, then the sum of those.
#pragma once
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {

inline constexpr int kReduceRows = 8;  // rows that a thread block reads at a time
// Rows in one partial sum: fewer where the launch has few rows, which would leave multiprocessors idle.
inline int64_t rows_of_part(int64_t rows) { return rows < 2048 ? 32 : 256; }

// A thread block handles 32 vectors of N columns. f(row, vector index) returns a FloatVector<N>.
template <class T, int N, class F>
__device__ void column_partial(int64_t rows, int64_t part, int64_t C, const F& f, float* partial) {
  using namespace wuneng::cuda;
  __shared__ float sums[kReduceRows][N][kWarp];
  const int64_t c = (int64_t{blockIdx.x} * kWarp + threadIdx.x) * N, first = blockIdx.y * part,
                last = min(rows, first + part);
  FloatVector<N> sum;
  if (c < C)
    for (int64_t t = first + threadIdx.y; t < last; t += kReduceRows) sum = sum + f(t, VectorIndex<T, N>{c});
#pragma unroll
  for (int j = 0; j < N; ++j) sums[threadIdx.y][j][threadIdx.x] = sum.x[j];
  __syncthreads();
  if (threadIdx.y != 0 || c >= C) return;
  for (int i = 1; i < kReduceRows; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) sum.x[j] += sums[i][j][threadIdx.x];
  store(partial + blockIdx.y * C + c, sum);
}

template <class T, class F>
__global__ void __launch_bounds__(wuneng::cuda::kBlock)
    column_partial_kernel(bool vectorized, int64_t rows, int64_t part, int64_t C, F f, float* partial) {
  if (vectorized)
    column_partial<T, wuneng::cuda::kVectorLength<T>>(rows, part, C, f, partial);
  else
    column_partial<T, 1>(rows, part, C, f, partial);
}

// out [C] += the rows of partial [parts, C]
inline __global__ void add_parts_kernel(unsigned parts, int64_t C, const float* partial, float* out) {
  const int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= C) return;
  float sum = 0;
#pragma unroll 8
  for (unsigned p = 0; p < parts; ++p) sum += partial[p * C + c];
  out[c] += sum;
}

inline void add_parts(const Stream& stream, const char* name, const Tensor& partial, const Tensor& out) {
  using namespace wuneng::cuda;
  const int64_t C = partial.dim(1);
  launch(stream, name, add_parts_kernel, dim3(blocks_for(C, kWarp)), dim3(kWarp), 0,
         static_cast<unsigned>(partial.dim(0)), C, partial.f32(), out.f32());
}

// out [groups] += the rows of partial [parts, groups * D], summed over the D columns of a group. One warp per
// group.
inline __global__ void add_groups_kernel(unsigned parts, int64_t D, const float* partial, float* out) {
  using namespace wuneng::cuda;
  float sum = 0;
  for (unsigned p = 0; p < parts; ++p)
    for (int64_t c = threadIdx.x; c < D; c += kWarp)
      sum += partial[(int64_t{p} * gridDim.x + blockIdx.x) * D + c];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] += sum;
}

// out [C], or [C / D] for sums over groups of D columns. f is called once for each row and vector; it is a
// generic __device__ lambda of (row, vector index) that captures by value; no vector crosses a multiple of
// `unit` columns, which divides C.
template <class F>
void column_reduce(const Stream& stream, const char* name, const wuneng::cuda::VectorWidth& tensors,
                   int64_t rows, int64_t C, int64_t unit, const Tensor& out, F f) {
  if (rows == 0 || C == 0) return;
  using namespace wuneng::cuda;
  const VectorWidth width = tensors.for_units_of(unit);
  const int64_t vectors = width.vectorized ? C / width.elements() : C;
  const int64_t part = rows_of_part(rows);
  const unsigned parts = blocks_for(rows, part);
  const Tensor partial = Tensor::empty({parts, C}, DType::f32, out.device());
  launch(stream, name,
         width.type == DType::bf16 ? column_partial_kernel<bf16, F> : column_partial_kernel<float, F>,
         dim3(blocks_for(vectors, kWarp), parts), dim3(kWarp, kReduceRows), 0, width.vectorized, rows, part,
         C, f, partial.f32());
  if (const int64_t D = C / out.numel(); D > 1)
    launch(stream, name, add_groups_kernel, dim3(static_cast<unsigned>(out.numel())), dim3(kWarp), 0, parts,
           D, partial.f32(), out.f32());
  else
    add_parts(stream, name, partial, out);
}

// A gradient's pass: f(row, vector index), which writes what it has to, for all rows and vectors; with `out`
// also the sums of what it returns.
template <class F>
void for_each_with_column_sums(const Stream& stream, const char* name,
                               const wuneng::cuda::VectorWidth& tensors, int64_t rows, int64_t C,
                               int64_t unit, const Tensor& out, F f) {
  if (out.defined()) return column_reduce(stream, name, tensors, rows, C, unit, out, f);
  wuneng::cuda::for_each_in_rows(stream, name, tensors, rows, C, unit,
                                 [=] __device__(int64_t t, auto c) { f(t, c); });
}

}  // namespace wuneng::kernels::cuda

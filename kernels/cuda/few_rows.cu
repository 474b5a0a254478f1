// A thread block forms kColumns columns of c. Its threads share the rows of b among them, 16 bytes at a time,
// and hold a sum of each element of c; these are summed over the lanes of a warp, then over the warps.
#include "kernels/cuda/few_rows.h"
#include "kernels/matmul.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kColumns = 4;  // a row of a is read once for so many rows of b

template <class A, class B>
struct Problem {
  const A* a;
  const B* b;
  FloatPointer c, base, bias;
  const float* b_scale;
  int64_t lda, a_step, b_step, ldc, c_step, N, K;
  float scale, accumulate;
  int M;
  bool vectorized;
};

// sums[m * kColumns + j] += a[m] . b[first + j], this thread's part; columns from N on are the last one
// again.
template <int V, int R, class A, class B>
__device__ void add_products(const Problem<A, B>& p, const A* a, const B* b, int64_t first,
                             float (&sums)[R * kColumns]) {
  for (int64_t k = int64_t{threadIdx.x} * V; k < p.K; k += kThreads * V) {
    FloatVector<V> column[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) column[j] = load<V>(b + min(first + j, p.N - 1) * p.K + k);
#pragma unroll
    for (int m = 0; m < R; ++m) {
      if (m >= p.M) break;
      const FloatVector<V> row = load<V>(a + m * p.lda + k);
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int v = 0; v < V; ++v) sums[m * kColumns + j] += row.x[v] * column[j].x[v];
    }
  }
}

// The sums of kCount numbers of each lane over a warp, to `to`. Half of the numbers are given to the other
// half of the lanes until each has one: fewer exchanges than a sum of each number.
template <int kCount>
__device__ void sums_over_warp(float (&x)[kCount], float* to) {
  const int lane = threadIdx.x % kWarp;
  int left = kCount, mine = 0;  // the numbers that this lane still has, and the first of them
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const bool upper = lane & mask;
    if (left == 1) {
      x[0] += __shfl_xor_sync(~0u, x[0], mask);
      continue;
    }
    left /= 2;
    if (upper) mine += left;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i)
      if (i < left) {
        const float given = upper ? x[i] : x[left + i], kept = upper ? x[left + i] : x[i];
        x[i] = kept + __shfl_xor_sync(~0u, given, mask);
      }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (i < left) to[mine + i] = x[i];
}

// Grid (columns, product of the batch). R: the most rows of a.
template <class A, class B, int R>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(Problem<A, B> p) {
  constexpr int kCount = R * kColumns;
  __shared__ float parts[kWarps][kCount];
  const int64_t first = int64_t{blockIdx.x} * kColumns;
  const A* a = p.a + blockIdx.y * p.a_step;
  const B* b = p.b + blockIdx.y * p.b_step;
  float sums[kCount] = {};
  if (p.vectorized)
    add_products<kVectorLength<B>, R>(p, a, b, first, sums);
  else
    add_products<1, R>(p, a, b, first, sums);
  sums_over_warp(sums, parts[threadIdx.x / kWarp]);
  __syncthreads();
  const int m = threadIdx.x / kColumns;
  const int64_t n = first + threadIdx.x % kColumns;
  if (m >= p.M || n >= p.N) return;
  float sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += parts[warp][threadIdx.x];
  const int64_t at = blockIdx.y * p.c_step + m * p.ldc + n;
  sum *= p.b_scale ? p.scale * p.b_scale[n] : p.scale;
  if (p.accumulate != 0) sum += p.accumulate * p.c[at];
  if (p.base) sum += p.base[at];
  if (p.bias) sum += p.bias[n];
  p.c.store(at, sum);
}

template <int V, class T>
bool rows_are_aligned(const T* x, int64_t row, int64_t step) {
  constexpr int64_t unit = V * sizeof(T) < 16 ? V : 16 / sizeof(T);
  return is_aligned<V>(x) && row % unit == 0 && step % unit == 0;
}

template <class A, class B>
void run(const Stream& stream, const FewRows& args) {
  constexpr int V = kVectorLength<B>;
  const A* a = args.a.data<A>();
  const B* b = args.b.data<B>();
  const Problem<A, B> p{.a = a,
                        .b = b,
                        .c = float_pointer(args.c),
                        .base = float_pointer(args.base),
                        .bias = float_pointer(args.bias),
                        .b_scale = f32_or_null(args.b_scale),
                        .lda = args.lda,
                        .a_step = args.a_step,
                        .b_step = args.b_step,
                        .ldc = args.ldc,
                        .c_step = args.c_step,
                        .N = args.N,
                        .K = args.K,
                        .scale = args.scale,
                        .accumulate = args.accumulate,
                        .M = static_cast<int>(args.M),
                        .vectorized = args.K % V == 0 && rows_are_aligned<V>(a, args.lda, args.a_step) &&
                                      rows_are_aligned<V>(b, args.K, args.b_step)};
  const dim3 grid(blocks_for(args.N, kColumns), static_cast<unsigned>(args.batch));
  const auto kernel = p.M == 1   ? few_rows_kernel<A, B, 1>
                      : p.M <= 4 ? few_rows_kernel<A, B, 4>
                                 : few_rows_kernel<A, B, kFewRowsOnGpu>;
  launch(stream, "few_rows", kernel, grid, dim3(kThreads), 0, p);
}

template <class A>
void run_with(const Stream& stream, const FewRows& args) {
  switch (args.b.dtype()) {
    case DType::f32:
      return run<A, float>(stream, args);
    case DType::bf16:
      return run<A, bf16>(stream, args);
    case DType::f16:
      return run<A, f16>(stream, args);
    case DType::i8:
      return run<A, int8_t>(stream, args);
    default:
      fail("few_rows: a matrix {} of {}: expected f32, bf16, f16 or i8", to_string(args.b.shape()),
           to_string(args.b.dtype()));
  }
}

}  // namespace

void few_rows(const Stream& stream, const FewRows& args) {
  WUNENG_ASSERT(args.M <= kFewRowsOnGpu);
  if (args.M == 0) return;
  args.a.dtype() == DType::bf16 ? run_with<bf16>(stream, args) : run_with<float>(stream, args);
}

}  // namespace wuneng::kernels::cuda

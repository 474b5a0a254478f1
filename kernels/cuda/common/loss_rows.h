// What the losses over a vocabulary share, one thread block per token: sums over a block, the softmax of a
// row in one pass, and the logits of a token.
#pragma once
#include "kernels/loss.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {

using namespace wuneng::cuda;

inline constexpr int kWarps = kBlock / kWarp;
inline constexpr int kTogether =
    4;  // logits that a thread reads at once: 16 bytes of f32, one update of its maximum
using Logits = FloatVector<kTogether>;

// The maximum, and the f64 sum, of x over the block, in all its threads. Their shared memory may be reused
// when they return.
__device__ inline float block_max(float x) {
  __shared__ float of_warp[kWarps];
  x = warp_max(x);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = x;
  __syncthreads();
  float best = of_warp[0];
  for (int w = 1; w < kWarps; ++w) best = fmaxf(best, of_warp[w]);
  __syncthreads();
  return best;
}
__device__ inline double block_sum(double x) {
  __shared__ double of_warp[kWarps];
  x = warp_sum(x);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += of_warp[w];
  __syncthreads();
  return sum;
}

// Online softmax of one thread: the running maximum, the sums of e^(x - maximum) and of e^(x - maximum) y.
struct Running {
  float maximum = -INFINITY, sum = 0, weighted = 0;

  // Propagates NaN: it does not change the maximum, and its exponential is NaN.
  __device__ void update(const Logits& xs, const Logits& ys) {
    const auto& x = xs.x;
    const auto& y = ys.x;
    float best = maximum;
#pragma unroll
    for (int j = 0; j < kTogether; ++j) best = fmaxf(best, x[j]);
    if (best > maximum) {
      const float keep = expf(maximum - best);  // 0 at first
      sum *= keep, weighted *= keep;
      maximum = best;
    }
    if (maximum == -INFINITY) return;
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const float e = expf(x[j] - maximum);
      sum += e;
      if (e != 0) weighted += e * y[j];
    }
  }

  // Over the whole block.
  __device__ void reduce(float& largest, double& total, double& total_weighted) const {
    largest = block_max(maximum);
    const double keep = maximum == largest     ? 1.0
                        : maximum == -INFINITY ? 0.0
                                               : exp(double(maximum) - largest);
    total = block_sum(sum * keep);
    total_weighted = block_sum(weighted * keep);
  }
};

struct LossRow {
  FloatPointer logits;
  int64_t V, begin;
  const int32_t* labels;
  float inverse;

  __device__ FloatPointer x() const { return logits.from(blockIdx.x * V); }
  // The local column of the token's label; -1: not on this rank.
  __device__ int64_t label() const {
    const int32_t label = labels[blockIdx.x];
    return label >= begin && label < begin + V ? label - begin : -1;
  }
};
inline LossRow row_of(const LossInputs& in) {
  return {float_pointer(in.logits), in.logits.dim(1), in.begin, in.labels.data<int32_t>(),
          in.inverse_temperature};
}

// Elements [c, c + kTogether) of x [columns]; -inf past the end.
template <class T>
__device__ Logits logits_at(const T* x, int64_t c, int64_t columns) {
  if (c + kTogether <= columns && is_aligned<kTogether>(x + c)) return load<kTogether>(x + c);
  Logits some;
#pragma unroll
  for (int j = 0; j < kTogether; ++j) some.x[j] = c + j < columns ? as_float(x[c + j]) : -INFINITY;
  return some;
}
__device__ inline Logits logits_at(const FloatPointer& x, int64_t c, int64_t columns) {
  return x.is_bf16 ? logits_at(static_cast<const bf16*>(x.data), c, columns)
                   : logits_at(static_cast<const float*>(x.data), c, columns);
}

// Stores the elements below `columns`.
template <class T>
__device__ void store_logits(T* to, int64_t c, int64_t columns, const Logits& value) {
  if (c + kTogether <= columns && is_aligned<kTogether>(to + c)) return store(to + c, value);
#pragma unroll
  for (int j = 0; j < kTogether; ++j)
    if (c + j < columns) assign(to[c + j], value.x[j]);
}
__device__ inline void store_logits(const FloatPointer& to, int64_t c, int64_t columns, const Logits& value) {
  to.is_bf16 ? store_logits(static_cast<bf16*>(to.data), c, columns, value)
             : store_logits(static_cast<float*>(to.data), c, columns, value);
}

}  // namespace wuneng::kernels::cuda

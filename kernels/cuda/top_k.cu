// A block per row. A radix select finds the key of the k-th largest candidate, 8 bits in each of at most
// eight passes over the row; one more pass collects the k largest and sums up the rest.
#include "kernels/cuda/common/loss_rows.h"
#include "kernels/top_k.h"

namespace wuneng::kernels::cuda {
namespace {

constexpr int kDigits = 256;
static_assert(kDigits == kBlock);

struct Candidates {
  const float* x;
  const int32_t* ids;  // null: first + n
  int64_t first, S, C, N, stride;
  float factor;

  __device__ int64_t count() const { return S * N; }
  __device__ float value(int64_t i) const { return factor * x[(i / N * C + blockIdx.x) * stride + i % N]; }
  __device__ int32_t id(int64_t i) const {
    return ids ? ids[(i / N * C + blockIdx.x) * N + i % N] : static_cast<int32_t>(first + i);
  }
  __device__ float rest(int64_t s) const { return x[(s * C + blockIdx.x) * stride + N]; }
};

__device__ uint64_t key_of(float x, int32_t id) {
  return top_k_key(static_cast<uint32_t>(__float_as_int(x)), id);
}
__device__ float value_of(uint64_t key) {
  const uint32_t ascending = static_cast<uint32_t>(key >> 32);
  return __int_as_float(static_cast<int>(ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending));
}
__device__ int32_t id_of(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

// The least key among the k largest, in all threads; count > k.
__device__ uint64_t threshold(const Candidates& all, int64_t k) {
  __shared__ int histogram[kDigits];
  __shared__ int digit, wanted_in_digit;
  uint64_t prefix = 0;
  int64_t wanted = k;
  for (int shift = 56; shift >= 0; shift -= 8) {
    histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < all.count(); i += kBlock) {
      const uint64_t key = key_of(all.value(i), all.id(i));
      if (shift == 56 || key >> (shift + 8) == prefix >> (shift + 8))
        atomicAdd(&histogram[key >> shift & (kDigits - 1)], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int64_t left = wanted;
      int d = kDigits - 1;
      for (; histogram[d] < left; --d) left -= histogram[d];
      digit = d, wanted_in_digit = static_cast<int>(left);
    }
    __syncthreads();
    prefix |= uint64_t(digit) << shift;
    wanted = wanted_in_digit;
    const bool all_of_them = histogram[digit] == wanted;
    __syncthreads();
    if (all_of_them) break;
  }
  return prefix;
}

__global__ void __launch_bounds__(kBlock)
    top_k_kernel(Candidates all, bool has_rest, bool normalize, int64_t k, float* top, int32_t* top_ids) {
  uint64_t* const chosen = shared_memory<uint64_t>();  // [k], in no order
  __shared__ int found;
  if (threadIdx.x == 0) found = 0;
  const uint64_t least = all.count() > k ? threshold(all, k) : 0;
  __syncthreads();
  float largest = -INFINITY;  // of the rest
  for (int64_t i = threadIdx.x; i < all.count(); i += kBlock) {
    const uint64_t key = key_of(all.value(i), all.id(i));
    if (key >= least)
      chosen[atomicAdd(&found, 1)] = key;
    else
      largest = fmaxf(largest, all.value(i));
  }
  if (has_rest)
    for (int64_t s = threadIdx.x; s < all.S; s += kBlock) largest = fmaxf(largest, all.rest(s));
  largest = block_max(largest);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < all.count() && largest != -INFINITY; i += kBlock)
    if (key_of(all.value(i), all.id(i)) < least) sum += expf(all.value(i) - largest);
  if (has_rest)
    for (int64_t s = threadIdx.x; s < all.S; s += kBlock)
      if (all.rest(s) != -INFINITY) sum += exp(double(all.rest(s)) - largest);
  sum = block_sum(sum);
  const double rest = sum == 0 ? -INFINITY : largest + log(sum);
  double whole = 0;
  if (normalize) {
    float most = static_cast<float>(rest);
    for (int64_t j = threadIdx.x; j < found; j += kBlock) most = fmaxf(most, value_of(chosen[j]));
    most = block_max(most);
    double total = threadIdx.x == 0 ? exp(rest - most) : 0.0;
    for (int64_t j = threadIdx.x; j < found; j += kBlock) total += exp(double(value_of(chosen[j])) - most);
    whole = most + log(block_sum(total));
  }
  float* const row = top + blockIdx.x * (k + 1);
  int32_t* const ids = top_ids + blockIdx.x * k;
  for (int64_t j = threadIdx.x; j < k; j += kBlock) {
    if (j >= found) {
      row[j] = -INFINITY, ids[j] = kNoId;
      continue;
    }
    int64_t before = 0;  // keys differ
    for (int64_t other = 0; other < found; ++other) before += chosen[other] > chosen[j];
    row[before] = static_cast<float>(value_of(chosen[j]) - whole);
    ids[before] = id_of(chosen[j]);
  }
  if (threadIdx.x == 0) row[k] = static_cast<float>(rest - whole);
}

}  // namespace

void top_k(const Stream& stream, const TopKArgs& args) {
  const int64_t C = args.top.dim(0), k = args.top.dim(1) - 1, stride = args.x.dim(2);
  WUNENG_ASSERT(k >= 1 && k <= kMostTopK && args.x.dim(1) == C && args.top_ids.shape() == (Shape{C, k}));
  const Candidates all{args.x.f32(),
                       args.ids.defined() ? args.ids.data<int32_t>() : nullptr,
                       args.first,
                       args.x.dim(0),
                       C,
                       stride - args.has_rest,
                       stride,
                       args.factor};
  launch(stream, "top_k", top_k_kernel, dim3(C), dim3(kBlock), k * sizeof(uint64_t), all, args.has_rest,
         args.normalize, k, args.top.f32(), args.top_ids.data<int32_t>());
}

}  // namespace wuneng::kernels::cuda

// One chunk of one chain in decayed coordinates, in shared memory: the CUDA side of kernels/cpu/wkv7_chunk.h,
// with the same notation and formulas.
//
// T is the type of the activations, W the number of channels rounded up to a width that kernels are compiled
// for; channels from D on are zero. Warp w owns the channels [16 w, 16 w + 16) of the keys or of the values,
// and of each product the rows of these channels, so that little data passes between warps. What is written
// here may be read after the block's next barrier, or at once by the thread that handles the channel.
#pragma once
#include "kernels/cuda/wkv7/wkv7_rows.h"
#include "kernels/wkv7.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using wuneng::cuda::as_float;
using wuneng::cuda::assign;

inline constexpr int kC = static_cast<int>(wkv7_chunk);
static_assert(kC == kTile);
inline constexpr int kKept = static_cast<int>(wkv7_kept(DeviceKind::cuda));

// Wkv7Inputs as kernel arguments.
template <class T>
struct Inputs {
  const T *log_w, *k, *v, *kappa, *rate;  // [T, N, D]
  int64_t N;
  int D;
};
template <class T>
Inputs<T> inputs_of(const Wkv7Inputs& in) {
  return {in.log_w.data<T>(),           in.k.data<T>(),    in.v.data<T>(),
          in.kappa.data<T>(),           in.rate.data<T>(), in.k.dim(1),
          static_cast<int>(in.k.dim(2))};
}

// e^g and 1 / x at T's precision.
template <class T>
__device__ float decay(float g) {
  if constexpr (sizeof(T) == 2) return fast_exp2(g * 1.44269504f);
  return expf(g);
}
template <class T>
__device__ float reciprocal(float x) {
#ifdef __CUDACC__
  if constexpr (sizeof(T) == 2) return __fdividef(1, x);
#endif
  return 1 / x;
}

template <class T, int W>
struct Chunk {
  static constexpr int P = tile_pitch(W), kQuarter = kC / 4;
  T A[kC * P];                           // [16, P]
  T KB[2 * kC * P];                      // [32, P]: K over B
  T VU[2 * kC * P];                      // [32, P]: V over U
  alignas(16) float grow[(kC + 1) * W];  // [17, W]: row t + 1 holds e^{g_t}

  __device__ T* K() { return KB; }
  __device__ T* B() { return KB + kC * P; }
  __device__ T* V() { return VU; }
  __device__ T* U() { return VU + kC * P; }
  __device__ const float* total() const { return grow + kC * W; }  // e^G of the whole chunk

  // Each of 2 W threads handles two adjacent channels and a quarter of the rows.
  __device__ static int channel() { return opaque(static_cast<int>(threadIdx.x)) % (W / 2) * 2; }
  __device__ static int first() { return opaque(static_cast<int>(threadIdx.x)) / (W / 2) * kQuarter; }

  // Loads rows [row, row + C) of state head n by 2 W threads; the rest of the 16 rows is zero with decay 1.
  __device__ void load(const Inputs<T>& in, int64_t row, int C, int64_t n, const T* removed) {
    const int stride = opaque(static_cast<int>(in.N) * in.D), c = channel(), real = c < in.D ? C : 0;
    const int64_t at = row * stride + n * in.D + c;
    const auto take = [&](const T* x, int t) {
      return t < real ? Two<T>::from(x + at + t * stride) : Two<T>{};
    };
    float g[2] = {};
    for (int t = 0; t < first(); ++t) {
      const Two<T> log_w = take(in.log_w, t);
      g[0] += log_w[0], g[1] += log_w[1];
    }
    float before[2] = {decay<T>(g[0]), decay<T>(g[1])};
    if (first() == 0) Two<float>(before[0], before[1]).to(grow + c);
#pragma unroll 2  // more loads in flight would make the state spill
    for (int i = 0; i < kQuarter; ++i) {
      const int t = first() + i, to = t * P + c;
      const Two<T> log_w = take(in.log_w, t), k = take(in.k, t), v = take(in.v, t), kappa = take(in.kappa, t),
                   rate = take(in.rate, t);
      float up[2], down[2];
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        g[x] += log_w[x];
        up[x] = decay<T>(g[x]), down[x] = decay<T>(-g[x]);
      }
      Two<float>(up[0], up[1]).to(grow + (t + 1) * W + c);
      Two<T>(-kappa[0] * before[0], -kappa[1] * before[1]).to(A + to);
      Two<T>(k[0] * down[0], k[1] * down[1]).to(K() + to);
      Two<T>(kappa[0] * rate[0] * down[0], kappa[1] * rate[1] * down[1]).to(B() + to);
      v.to(V() + to);
      if (removed) take(removed, t).to(U() + to);
      before[0] = up[0], before[1] = up[1];
    }
  }

  // Prefetches rows of a later chunk into the L2 cache, one line per thread.
  __device__ static void prefetch(const Inputs<T>& in, int64_t row, int C, int64_t n, const T* removed) {
    constexpr int kLine = 128 / sizeof(T), kLines = (W + kLine - 1) / kLine;  // of a row
    for (int e = threadIdx.x; e < 6 * C * kLines; e += blockDim.x) {
      const int which = e / (C * kLines), t = e / kLines % C, c = e % kLines * kLine;
      const T* const x = which == 0   ? in.log_w
                         : which == 1 ? in.k
                         : which == 2 ? in.v
                         : which == 3 ? in.kappa
                         : which == 4 ? in.rate
                                      : removed;
      if (x && c < in.D) prefetch_line(x + ((row + t) * in.N + n) * in.D + c);
    }
  }
  __device__ static void prefetch_line(const T* at) {
#ifdef __CUDACC__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#else
    (void)at;
#endif
  }

  // Loads rows [row, row + C) of head h of x [T, heads, D] to [16, P], with the same thread mapping as
  // load(); scaled: times e^{g_t}.
  __device__ void load_rows(const T* x, int64_t row, int C, int64_t heads, int64_t h, int D, T* to,
                            bool scaled) const {
    const int stride = opaque(static_cast<int>(heads) * D), c = channel(), real = c < D ? C : 0;
    const int64_t at = row * stride + h * D + c;
#pragma unroll 2
    for (int i = 0; i < kQuarter; ++i) {
      const int t = first() + i;
      Two<T> value = t < real ? Two<T>::from(x + at + t * stride) : Two<T>{};
      if (scaled) {
        const auto up = Two<float>::from(grow + (t + 1) * W + c);
        value = Two<T>(value[0] * up[0], value[1] * up[1]);
      }
      value.to(to + t * P + c);
    }
  }
};

// Calls f.operator()<T, W>() for the type and width of `in`.
template <class F>
void with_width(const Wkv7Inputs& in, F f) {
  const int64_t D = in.k.dim(2);
  if (D > 128 || D % 2 != 0) fail("wkv7: {} channels a head, expected an even number up to 128", D);
  const auto of_type = [&]<class T>() {
    if (D <= 32) return f.template operator()<T, 32>();
    if (D <= 64) return f.template operator()<T, 64>();
    f.template operator()<T, 128>();
  };
  in.k.dtype() == DType::bf16 ? of_type.template operator()<bf16>() : of_type.template operator()<float>();
}

}  // namespace wuneng::kernels::cuda

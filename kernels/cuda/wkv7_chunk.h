// One chunk of one chain in decayed coordinates, in a block's shared memory: the CUDA side of
// kernels/cpu/wkv7_chunk.h, whose notation and formulas these kernels share.
//
// T is the activations' type, W the channels rounded up to a width that kernels are compiled for; those
// beyond D are zero. A warp w owns the channels 16 w .. 16 w + 15 of the keys or of the values, and of each
// product the rows that belong to them, so that little passes between warps. What is written here holds
// after the block's next barrier, but for the thread's own channel.
#pragma once
#include "kernels/cuda/tile.h"
#include "kernels/wkv7.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using wuneng::cuda::as_float;
using wuneng::cuda::assign;

inline constexpr int kC = static_cast<int>(wkv7_chunk);
static_assert(kC == kTile);
inline constexpr int kKept = static_cast<int>(wkv7_kept(DeviceKind::cuda));

// The inputs as a kernel sees them.
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

// x, though the compiler cannot know it: what follows from it is computed again for each chunk, where it
// would else lie in registers along the whole chain, beside the state.
__device__ inline int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

template <class T, int W>
struct Chunk {
  static constexpr int P = tile_pitch(W), kHalf = kC / 2;
  T A[kC * P];               // [16, P]
  T KB[2 * kC * P];          // [32, P]: K over B
  T VU[2 * kC * P];          // [32, P]: V over U
  float grow[(kC + 1) * W];  // [17, W]: row t + 1 holds e^{g_t}

  __device__ T* K() { return KB; }
  __device__ T* B() { return KB + kC * P; }
  __device__ T* V() { return VU; }
  __device__ T* U() { return VU + kC * P; }
  __device__ const float* total() const { return grow + kC * W; }  // e^G of the whole chunk

  // Rows [row, row + C) of state head n; the others of the 16 are zero and do not decay. removed: null where
  // U is still to be found. A thread has a channel, and of it one half of the rows.
  __device__ void load(const Inputs<T>& in, int64_t row, int C, int64_t n, const T* removed) {
    const int stride = opaque(static_cast<int>(in.N) * in.D);
    for (int e = threadIdx.x; e < 2 * W; e += blockDim.x) {
      const int c = e % W, first = e / W * kHalf, real = c < in.D ? C : 0;
      int64_t at = row * stride + n * in.D + c;
      float g = 0;
      for (int t = 0; t < first; ++t, at += stride)
        if (t < real) g += as_float(in.log_w[at]);
      float before = expf(g);
      if (first == 0) grow[c] = before;
#pragma unroll 4
      for (int t = first; t < first + kHalf; ++t, at += stride) {
        float k = 0, v = 0, kappa = 0, rate = 0, u = 0;
        if (t < real) {
          g += as_float(in.log_w[at]);
          k = as_float(in.k[at]), v = as_float(in.v[at]);
          kappa = as_float(in.kappa[at]), rate = as_float(in.rate[at]);
          if (removed) u = as_float(removed[at]);
        }
        const float up = expf(g), down = 1.0f / up;
        grow[(t + 1) * W + c] = up;
        assign(A[t * P + c], -kappa * before);
        assign(K()[t * P + c], k * down);
        assign(B()[t * P + c], kappa * rate * down);
        assign(V()[t * P + c], v);
        if (removed) assign(U()[t * P + c], u);
        before = up;
      }
    }
  }

  // Asks the L2 cache for rows that are to come, a line a thread.
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

  // Rows [row, row + C) of head h of x [T, heads, D] to [16, P], by the threads that have these channels and
  // rows in load(); scaled: times e^{g_t}.
  __device__ void load_rows(const T* x, int64_t row, int C, int64_t heads, int64_t h, int D, T* to,
                            bool scaled) const {
    for (int e = threadIdx.x; e < 2 * W; e += blockDim.x) {
      const int c = e % W, first = e / W * kHalf, real = c < D ? C : 0;
      const int stride = opaque(static_cast<int>(heads) * D);
      int64_t at = (row + first) * stride + h * D + c;
#pragma unroll 4
      for (int t = first; t < first + kHalf; ++t, at += stride) {
        const float value = t < real ? as_float(x[at]) : 0.0f;
        assign(to[t * P + c], scaled ? value * grow[(t + 1) * W + c] : value);
      }
    }
  }
};

// Channels [first, first + 16) of rows [row, row + C) of head h of x [T, heads, D], from a tile [channel, t]:
// value(i) of its element i.
template <class T, class F>
__device__ void store_rows(T* x, int64_t row, int C, int64_t heads, int64_t h, int D, int first, F value) {
  T* const from = x + (row * heads + h) * D + first;
  const int stride = opaque(static_cast<int>(heads) * D);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int c = tile_row(i), t = tile_column(i);
    if (t < C && first + c < D) assign(from[t * stride + c], value(i));
  }
}

// f.operator()<T, W>() for the activations of `in`.
template <class F>
void with_width(const Wkv7Inputs& in, F f) {
  const int64_t D = in.k.dim(2);
  if (D > 128) fail("wkv7: {} channels a head, expected at most 128", D);
  const auto of_type = [&]<class T>() {
    if (D <= 32) return f.template operator()<T, 32>();
    if (D <= 64) return f.template operator()<T, 64>();
    f.template operator()<T, 128>();
  };
  in.k.dtype() == DType::bf16 ? of_type.template operator()<bf16>() : of_type.template operator()<float>();
}

}  // namespace wuneng::kernels::cuda

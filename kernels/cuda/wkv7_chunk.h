// One chunk of one chain in decayed coordinates, in a block's shared memory: the CUDA side of
// kernels/cpu/wkv7_chunk.h, whose notation and formulas these kernels share. A block has 256 threads and one
// state head; what is written here holds after the block's next barrier, which every function ends with.
#pragma once
#include "kernels/cuda/tensor_core.h"
#include "kernels/cuda/upload.h"
#include "kernels/wkv7.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using wuneng::cuda::Floats;
using wuneng::cuda::floats;

inline constexpr int kC = static_cast<int>(wkv7_chunk);
inline constexpr int kThreads = wuneng::cuda::kBlock;

// Keeps of both halves of pairs [16, 32] the entries j <= t, or j < t where strict.
__device__ inline void keep_causal(float* pairs, bool strict) {
  for (int e = threadIdx.x; e < kC * 2 * kC; e += kThreads)
    if (e % kC > e / (2 * kC) - (strict ? 1 : 0)) pairs[e] = 0.0f;
  __syncthreads();
}

// inverse [16, 16] = (I - x)^-1 for a strictly lower triangular x, rows `pitch` apart: a thread a column.
__device__ inline void unit_inverse(const float* x, int pitch, float* inverse) {
  if (threadIdx.x < kC) {
    const int column = threadIdx.x;
    for (int t = 0; t < kC; ++t) {
      float sum = t == column ? 1.0f : 0.0f;
      for (int j = 0; j < t; ++j) sum += x[t * pitch + j] * inverse[j * kC + column];
      inverse[t * kC + column] = sum;
    }
  }
  __syncthreads();
}

// The inputs as a kernel sees them.
struct Inputs {
  Floats log_w, k, v, kappa, rate;  // [T, N, D]
  int64_t N;
  int D;
};
inline Inputs inputs_of(const Wkv7Inputs& in) {
  if (in.k.dim(2) > 128) fail("wkv7: {} channels a head, expected at most 128", in.k.dim(2));
  return {floats(in.log_w),
          floats(in.k),
          floats(in.v),
          floats(in.kappa),
          floats(in.rate),
          in.k.dim(1),
          static_cast<int>(in.k.dim(2))};
}

struct Chunk {
  int D, P;
  int64_t row;  // the first
  int C;        // rows that count; the others are zero
  float* grow;  // [17, P]: row t + 1 holds e^{g_t}
  float* A;     // [16, P]
  float* KB;    // [32, P]: K over B
  float* VU;    // [32, P]: V over U
  static constexpr int kRows = kC + 1 + kC + 4 * kC;

  // Takes its part of `memory`; returns what follows.
  __device__ float* place(float* memory, int channels) {
    D = channels, P = pitch_of(D);
    grow = memory, A = grow + (kC + 1) * P, KB = A + kC * P, VU = KB + 2 * kC * P;
    return memory + kRows * P;
  }

  __device__ void load(const Inputs& in, int64_t first, int count, int64_t n) {
    row = first, C = count;
    for (int c = threadIdx.x; c < D; c += kThreads) {
      float g = 0;
      grow[c] = 1.0f;
      for (int t = 0; t < kC; ++t) {
        const int64_t at = ((row + t) * in.N + n) * D + c;
        const bool real = t < C;
        const float kappa = real ? in.kappa[at] : 0.0f, before = grow[t * P + c];
        if (real) g += in.log_w[at];
        const float up = expf(g), down = 1.0f / up;
        grow[(t + 1) * P + c] = up;
        A[t * P + c] = -kappa * before;
        KB[t * P + c] = real ? in.k[at] * down : 0.0f;
        KB[(kC + t) * P + c] = real ? kappa * in.rate[at] * down : 0.0f;
        VU[t * P + c] = real ? in.v[at] : 0.0f;
      }
    }
    __syncthreads();
  }

  // Rows of head h of x [T, heads, D] to [16, P], zero beyond C; scaled: times e^{g_t}.
  __device__ void load_rows(Floats x, int64_t heads, int64_t h, float* to, bool scaled = false) const {
    for (int e = threadIdx.x; e < kC * D; e += kThreads) {
      const int t = e / D, c = e % D;
      const float value = t < C ? x[((row + t) * heads + h) * D + c] : 0.0f;
      to[t * P + c] = scaled ? value * grow[(t + 1) * P + c] : value;
    }
    __syncthreads();
  }
  __device__ void store_rows(const float* from, Floats x, int64_t heads, int64_t h,
                             bool scaled = false) const {
    for (int e = threadIdx.x; e < C * D; e += kThreads) {
      const int t = e / D, c = e % D;
      x.set(((row + t) * heads + h) * D + c, from[t * P + c] * (scaled ? grow[(t + 1) * P + c] : 1.0f));
    }
    __syncthreads();
  }

  __device__ const float* total() const { return grow + C * P; }  // e^G of the whole chunk
  __device__ float* V() const { return VU; }
  __device__ float* U() const { return VU + kC * P; }
};

// A state [D, D] between global memory and shared memory; null: zeros, nowhere.
__device__ inline void load_state(const float* from, int D, float* to) {
  for (int e = threadIdx.x; e < D * D; e += kThreads) to[e / D * pitch_of(D) + e % D] = from ? from[e] : 0.0f;
  __syncthreads();
}
__device__ inline void store_state(const float* from, int D, float* to) {
  if (to)
    for (int e = threadIdx.x; e < D * D; e += kThreads) to[e] = from[e / D * pitch_of(D) + e % D];
  __syncthreads();
}

// Tables of a launch: [segments, 3] begin, count, first chunk; [chunks, 2] first row and rows; [N, 2] the
// readers [first, last) of each state head.
inline Tensor segment_table(const std::vector<Wkv7Segment>& segments, Device device) {
  std::vector<int64_t> flat;
  int64_t chunk = 0;
  for (const Wkv7Segment& s : segments) {
    flat.insert(flat.end(), {s.begin, s.count, chunk});
    chunk += (s.count + kC - 1) / kC;
  }
  return upload(flat, device);
}
inline Tensor chunk_table(const std::vector<Wkv7Segment>& segments, Device device) {
  std::vector<int64_t> flat;
  for (const Wkv7Segment& s : segments)
    for (int64_t at = 0; at < s.count; at += kC)
      flat.insert(flat.end(), {s.begin + at, std::min<int64_t>(kC, s.count - at)});
  return upload(flat, device);
}
inline Tensor reader_table(const std::vector<int>& head_state, int64_t N, Device device) {
  std::vector<int32_t> flat(2 * N, 0);
  for (size_t h = 0; h < head_state.size(); ++h) {
    int32_t* range = flat.data() + 2 * head_state[h];
    if (range[1] == 0) range[0] = static_cast<int32_t>(h);
    range[1] = static_cast<int32_t>(h) + 1;
  }
  return upload(flat, device);
}

}  // namespace wuneng::kernels::cuda

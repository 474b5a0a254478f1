// One chunk of one chain (a segment's state head) in decayed coordinates (docs/model.md; RWKV-7's chunked form).
//
// With g_t the sum of log w over the chunk's rows up to t, everything that meets at different rows is scaled to the chunk's start:
//   A_t = -kappa_t e^{g_{t-1}}    K_t = k_t e^{-g_t}    B_t = kappa_t rate_t e^{-g_t}    Q_t = r_t e^{g_t}
// so that S_t = (S_0 + sum_{j<=t} V_j K_j^T + U_j B_j^T) diag(e^{g_t}), where U_t = S_{t-1} (-kappa_t). With 16 rows g is above -9.8, so e^{-g} stays below
// 2e4 and f32 needs no centring.
#pragma once
#include <array>
#include <vector>

#include "kernels/cpu/blas.h"
#include "kernels/wkv7.h"

namespace wuneng::kernels::cpu {

inline constexpr int64_t kC = wkv7_chunk;

inline float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

inline void axpy(float s, const float* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += s * x[i];
}

// y += x * z
inline void multiply_add(const float* x, const float* z, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += x[i] * z[i];
}

// Where the segment's chunks begin in chunk_states.
std::vector<int64_t> first_chunks(const std::vector<Wkv7Segment>& segments);

// The readers [begin, end) of each of N state heads.
std::vector<std::array<int, 2>> readers_of(const std::vector<int>& head_state, int64_t N);

// Scratch and preparation of one chunk. Rows are [C, D], contiguous.
struct Wkv7Chunk {
  explicit Wkv7Chunk(int64_t channels);
  // Rows [row, row + count) of state head n.
  void load(const Wkv7Inputs& in, int64_t row, int64_t count, int64_t n);
  // removed rows U of the same rows.
  void load_removed(const Tensor& removed);
  // Q = r e^{g} of reader h, and for plain rows: a copy of them.
  void load_reader(const Tensor& r, int64_t h, float* to) const;
  void load_rows(const Tensor& x, int64_t h, float* to) const;
  void store_rows(const float* from, const Tensor& x, int64_t h) const;

  int64_t D, row = 0, C = 0, n = 0;
  std::vector<float> grow;     // e^{g_t}
  std::vector<float> shrink;   // e^{-g_t}
  std::vector<float> A, K, B, V, U;
  const float* total() const { return grow.data() + (C - 1) * D; }  // e^{G} of the whole chunk
};

}  // namespace wuneng::kernels::cpu

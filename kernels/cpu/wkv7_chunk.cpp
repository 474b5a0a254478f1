#include "kernels/cpu/wkv7_chunk.h"

#include <algorithm>

#include "kernels/cpu/simd.h"

namespace wuneng::kernels {

namespace {

int64_t runs_of(int64_t rows, const std::vector<Wkv7Segment>& segments) {
  int64_t count = 0;
  for (const Wkv7Segment& s : segments) count += (s.count + rows - 1) / rows;
  return count;
}

}  // namespace

int64_t wkv7_chunk_count(const std::vector<Wkv7Segment>& segments) { return runs_of(wkv7_chunk, segments); }
int64_t wkv7_kept_count(const std::vector<Wkv7Segment>& segments, DeviceKind kind) {
  return runs_of(wkv7_kept(kind), segments);
}

namespace cpu {
namespace {

void prefetch_floats(const float* from, int64_t count) {
  constexpr int64_t kCacheLine = 16;  // in floats
  for (int64_t i = 0; i < count; i += kCacheLine) __builtin_prefetch(from + i, 0, 2);
}

}  // namespace

Wkv7Chunk::Wkv7Chunk(int64_t channels)
    : D(channels),
      W((D + 15) / 16 * 16),
      grow((kC + 1) * W),
      shrink(kC * W),
      A(kC * W),
      KB(2 * kC * W),
      VU(2 * kC * W) {}

void Wkv7Chunk::load(const Wkv7Inputs& in, int64_t first, int64_t count, int64_t n) {
  row = first, C = count;
  const int64_t stride = in.k.dim(1) * D, from = row * stride + n * D;
  std::fill_n(grow.begin(), W, 0.0f);
  for (int64_t t = 0; t < C; ++t) {
    const float *log_w = in.log_w.f32() + from + t * stride, *before = grow.data() + t * W;
    float* g = grow.data() + (t + 1) * W;
#pragma omp simd
    for (int64_t c = 0; c < D; ++c) g[c] = before[c] + log_w[c];
    std::fill(g + D, g + W, 0.0f);
  }
#pragma omp simd
  for (int64_t i = 0; i < (C + 1) * W; ++i) grow[i] = exp_fast(grow[i]);
#pragma omp simd
  for (int64_t i = 0; i < C * W; ++i) shrink[i] = 1.0f / grow[W + i];
  for (int64_t t = 0; t < C; ++t) {
    const float *k = in.k.f32() + from + t * stride, *kappa = in.kappa.f32() + from + t * stride;
    const float *rate = in.rate.f32() + from + t * stride, *before = scale(t - 1),
                *down = shrink.data() + t * W;
    float *a = A.data() + t * W, *K = KB.data() + t * W, *B = K + kC * W;
#pragma omp simd
    for (int64_t c = 0; c < D; ++c) {
      a[c] = -kappa[c] * before[c];
      K[c] = k[c] * down[c];
      B[c] = kappa[c] * rate[c] * down[c];
    }
  }
  for (Scratch* x : {&A, &KB}) std::fill(x->begin() + C * W, x->begin() + kC * W, 0.0f);
  std::fill(KB.begin() + (kC + C) * W, KB.end(), 0.0f);
  load_rows(in.v, n, V());
}

void Wkv7Chunk::load_removed(const Tensor& removed, int64_t n) { load_rows(removed, n, U()); }

void Wkv7Chunk::prefetch(const Wkv7Inputs& in, int64_t row, int64_t count, int64_t n) {
  for (const Tensor* x : {&in.log_w, &in.k, &in.v, &in.kappa, &in.rate}) prefetch(*x, row, count, n);
}

void Wkv7Chunk::prefetch(const Tensor& x, int64_t row, int64_t count, int64_t h) {
  const int64_t D = x.dim(2), stride = x.dim(1) * D;
  for (int64_t t = row; t < row + count; ++t) prefetch_floats(x.f32() + t * stride + h * D, D);
}

void Wkv7Chunk::load_rows(const Tensor& x, int64_t h, float* to) const {
  const int64_t stride = x.dim(1) * D;
  for (int64_t t = 0; t < C; ++t) std::copy_n(x.f32() + (row + t) * stride + h * D, D, to + t * W);
  std::fill(to + C * W, to + kC * W, 0.0f);
}

void Wkv7Chunk::load_scaled(const Tensor& x, int64_t h, float* to) const {
  load_rows(x, h, to);
#pragma omp simd
  for (int64_t i = 0; i < C * W; ++i) to[i] *= grow[W + i];
}

void Wkv7Chunk::store_rows(const float* from, const Tensor& x, int64_t h) const {
  const int64_t stride = x.dim(1) * D;
  for (int64_t t = 0; t < C; ++t) std::copy_n(from + t * W, D, x.f32() + (row + t) * stride + h * D);
}

void Wkv7Chunk::store_scaled(const float* from, const Tensor& x, int64_t h) const {
  const int64_t stride = x.dim(1) * D;
  for (int64_t t = 0; t < C; ++t) {
    const float *y = from + t * W, *up = scale(t);
    float* to = x.f32() + (row + t) * stride + h * D;
#pragma omp simd
    for (int64_t c = 0; c < D; ++c) to[c] = y[c] * up[c];
  }
}

void keep_causal(float* pairs, bool strict) {
  for (int t = 0; t < kC; ++t) {
    const int last = t - strict;
    float *first = pairs + t * 2 * kC, *second = first + kC;
#pragma omp simd
    for (int j = 0; j < kC; ++j) {
      first[j] = j <= last ? first[j] : 0.0f;
      second[j] = j <= last ? second[j] : 0.0f;
    }
  }
}

void keep_causal_transposed(float* pairs, bool strict) {
  for (int j = 0; j < kC; ++j)
    for (float* row : {pairs + j * kC, pairs + (kC + j) * kC})
#pragma omp simd
      for (int t = 0; t < kC; ++t) row[t] = t >= j + strict ? row[t] : 0.0f;
}

void load_state(const Tensor& states, int64_t index, int64_t W, float* to) {
  if (!states.defined()) return static_cast<void>(std::fill_n(to, W * W, 0.0f));
  const int64_t D = states.dim(-1);
  const float* from = states.f32() + index * D * D;
  for (int64_t i = 0; i < D; ++i) std::copy_n(from + i * D, D, to + i * W);
}

void store_state(const float* from, int64_t W, const Tensor& states, int64_t index) {
  if (!states.defined()) return;
  const int64_t D = states.dim(-1);
  float* to = states.f32() + index * D * D;
  for (int64_t i = 0; i < D; ++i) std::copy_n(from + i * W, D, to + i * D);
}

const float* wide_state(const Tensor& states, int64_t index, int64_t W, Scratch& scratch) {
  if (states.dim(-1) == W) return states.f32() + index * W * W;
  load_state(states, index, W, scratch.data());
  return scratch.data();
}

void prefetch_state(const Tensor& states, int64_t index) {
  const int64_t square = states.dim(-1) * states.dim(-1);
  prefetch_floats(states.f32() + index * square, square);
}

std::vector<std::array<int, 2>> readers_of(const std::vector<int>& head_state, int64_t N) {
  std::vector<std::array<int, 2>> out(N, {0, 0});
  for (int h = 0; h < static_cast<int>(head_state.size()); ++h) {
    WUNENG_ASSERT(head_state[h] >= 0 && head_state[h] < N && (h == 0 || head_state[h] >= head_state[h - 1]));
    auto& range = out[head_state[h]];
    if (range[1] == 0) range[0] = h;
    range[1] = h + 1;
  }
  return out;
}

std::vector<Wkv7Chain> chains_between(const std::vector<Wkv7Segment>& segments, int64_t N, int64_t begin,
                                      int64_t end) {
  std::vector<Wkv7Chain> chains;
  int64_t unit = 0;
  for (int64_t n = 0; n < N; ++n) {
    int64_t chunk = 0;
    for (size_t s = 0; s < segments.size(); ++s) {
      if (unit >= begin && unit < end)
        chains.push_back({static_cast<int64_t>(s), n, segments[s].begin, segments[s].count, chunk});
      const int64_t chunks = (segments[s].count + kC - 1) / kC;
      chunk += chunks, unit += chunks;
    }
  }
  return chains;
}

}  // namespace cpu
}  // namespace wuneng::kernels

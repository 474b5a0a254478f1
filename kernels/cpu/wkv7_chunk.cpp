#include "kernels/cpu/wkv7_chunk.h"

#include <cstring>

#include "kernels/cpu/simd.h"

namespace wuneng::kernels {

int64_t wkv7_chunk_count(const std::vector<Wkv7Segment>& segments) {
  int64_t count = 0;
  for (const Wkv7Segment& s : segments) count += (s.count + wkv7_chunk - 1) / wkv7_chunk;
  return count;
}

namespace cpu {

std::vector<int64_t> first_chunks(const std::vector<Wkv7Segment>& segments) {
  std::vector<int64_t> first;
  int64_t at = 0;
  for (const Wkv7Segment& s : segments) {
    first.push_back(at);
    at += (s.count + kC - 1) / kC;
  }
  return first;
}

std::vector<std::array<int, 2>> readers_of(const std::vector<int>& head_state, int64_t N) {
  std::vector<std::array<int, 2>> out(N, {0, 0});
  for (int h = 0; h < static_cast<int>(head_state.size()); ++h) {
    auto& range = out[head_state[h]];
    if (range[1] == 0) range[0] = h;
    range[1] = h + 1;
  }
  return out;
}

Wkv7Chunk::Wkv7Chunk(int64_t channels)
    : D(channels), grow(kC * D), shrink(kC * D), A(kC * D), K(kC * D), B(kC * D), V(kC * D), U(kC * D) {}

void Wkv7Chunk::load(const Wkv7Inputs& in, int64_t first, int64_t count, int64_t head) {
  row = first, C = count, n = head;
  const int64_t stride = in.k.dim(1) * D;
  std::vector<float> g(D, 0.0f);
  for (int64_t t = 0; t < C; ++t) {
    const int64_t from = (row + t) * stride + n * D, to = t * D;
    const float *log_w = in.log_w.f32() + from, *k = in.k.f32() + from, *kappa = in.kappa.f32() + from, *rate = in.rate.f32() + from;
    const float* before = grow.data() + to - D;
#pragma omp simd
    for (int64_t c = 0; c < D; ++c) {
      g[c] += log_w[c];
      grow[to + c] = exp_fast(g[c]);
      shrink[to + c] = exp_fast(-g[c]);
      K[to + c] = k[c] * shrink[to + c];
      B[to + c] = kappa[c] * rate[c] * shrink[to + c];
    }
    if (t == 0)
      for (int64_t c = 0; c < D; ++c) A[c] = -kappa[c];
    else
#pragma omp simd
      for (int64_t c = 0; c < D; ++c) A[to + c] = -kappa[c] * before[c];
  }
  load_rows(in.v, n, V.data());
}

void Wkv7Chunk::load_removed(const Tensor& removed) { load_rows(removed, n, U.data()); }

void Wkv7Chunk::load_reader(const Tensor& r, int64_t h, float* to) const {
  const int64_t stride = r.dim(1) * D;
  for (int64_t t = 0; t < C; ++t) {
    const float* from = r.f32() + (row + t) * stride + h * D;
#pragma omp simd
    for (int64_t c = 0; c < D; ++c) to[t * D + c] = from[c] * grow[t * D + c];
  }
}

void Wkv7Chunk::load_rows(const Tensor& x, int64_t h, float* to) const {
  const int64_t stride = x.dim(1) * D;
  for (int64_t t = 0; t < C; ++t) std::memcpy(to + t * D, x.f32() + (row + t) * stride + h * D, D * sizeof(float));
}

void Wkv7Chunk::store_rows(const float* from, const Tensor& x, int64_t h) const {
  const int64_t stride = x.dim(1) * D;
  for (int64_t t = 0; t < C; ++t) std::memcpy(x.f32() + (row + t) * stride + h * D, from + t * D, D * sizeof(float));
}

}  // namespace cpu
}  // namespace wuneng::kernels

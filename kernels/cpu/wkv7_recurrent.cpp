// WKV-7 token by token, as it is written: what the chunked form is held against, and the form for few tokens.
#include <algorithm>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/wkv7_chunk.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

void wkv7_recurrent(const Stream&, const Wkv7RecurrentArgs& args) {
  const int64_t N = args.in.k.dim(1), D = args.in.k.dim(2), R = args.r.dim(1);
  const auto readers = readers_of(args.head_state, N);
  parallel_for(N * wkv7_chunk_count(args.in.segments), 1, [&](int64_t begin, int64_t end) {
    Scratch own(args.final.defined() ? 0 : D * D), w(D), b(D);
    for (const Wkv7Chain& chain : chains_between(args.in.segments, N, begin, end)) {
      const int64_t place = (chain.segment * N + chain.head) * D * D;
      float* state = args.final.defined() ? args.final.f32() + place : own.data();
      if (!args.initial.defined())
        std::fill(state, state + D * D, 0.0f);
      else if (args.initial.f32() + place != state)
        std::copy(args.initial.f32() + place, args.initial.f32() + place + D * D, state);
      const auto [first, last] = readers[chain.head];
      for (int64_t t = chain.begin; t < chain.begin + chain.count; ++t) {
        const int64_t from = (t * N + chain.head) * D;
        const float *log_w = args.in.log_w.f32() + from, *k = args.in.k.f32() + from,
                    *v = args.in.v.f32() + from;
        const float *kappa = args.in.kappa.f32() + from, *rate = args.in.rate.f32() + from;
#pragma omp simd
        for (int64_t c = 0; c < D; ++c) w[c] = exp_fast(log_w[c]), b[c] = kappa[c] * rate[c];
        for (int64_t i = 0; i < D; ++i) {
          float *row = state + i * D, removed = -dot(row, kappa, D), value = v[i];
#pragma omp simd
          for (int64_t c = 0; c < D; ++c) row[c] = row[c] * w[c] + removed * b[c] + value * k[c];
        }
        for (int h = first; h < last; ++h) {
          const float* r = args.r.f32() + (t * R + h) * D;
          float* y = args.y.f32() + (t * R + h) * D;
          for (int64_t i = 0; i < D; ++i) y[i] = dot(state + i * D, r, D);
        }
      }
    }
  });
}

}  // namespace wuneng::kernels::cpu

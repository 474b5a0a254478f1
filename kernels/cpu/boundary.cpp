#include "kernels/boundary.h"

#include "kernels/norm.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {

void boundary_read(const Stream& stream, const BoundaryReadArgs& args) {
  WUNENG_ASSERT(!args.weight.defined() || !args.accumulate);
  const int64_t R = args.r.dim(1), D = args.r.dim(2), N = args.states.dim(1);
  const int64_t jobs = static_cast<int64_t>(args.segments.size()) * R;
  parallel_for(jobs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const auto& segment = args.segments[job / R];
      const int64_t h = job % R;
      const float* B = args.states.f32() + (job / R * N + args.head_state[h]) * D * D;
      for (int64_t t = segment.begin; t < segment.begin + segment.count; ++t) {
        const float* r = args.r.f32() + (t * R + h) * D;
        float* y = args.y.f32() + (t * R + h) * D;
        if (args.transposed) {
          if (!args.accumulate) std::fill_n(y, D, 0.0f);
          for (int64_t i = 0; i < D; ++i) {
            const float *row = B + i * D, ri = r[i];
#pragma omp simd
            for (int64_t j = 0; j < D; ++j) y[j] += ri * row[j];
          }
        } else {
          for (int64_t i = 0; i < D; ++i) {
            const float* row = B + i * D;
            float sum = args.accumulate ? y[i] : 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < D; ++j) sum += row[j] * r[j];
            y[i] = sum;
          }
        }
      }
    }
  });
  if (!args.weight.defined()) return;
  for (const Wkv7Segment& segment : args.segments) {
    const auto rows = [&](const Tensor& x) { return x.rows(segment.begin, segment.begin + segment.count); };
    rms_norm(stream, {.x = rows(args.y), .weight = args.weight, .eps = args.eps, .y = rows(args.normed)});
  }
}

void boundary_read_grad(const Stream&, const BoundaryReadGradArgs& args) {
  const int64_t R = args.a.dim(1), D = args.a.dim(2), N = args.dstates.dim(1);
  parallel_for(static_cast<int64_t>(args.segments.size()) * N, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const auto& segment = args.segments[job / N];
      float* dB = args.dstates.f32() + job * D * D;
      for (int64_t h = 0; h < R; ++h) {
        if (args.head_state[h] != job % N) continue;
        for (int64_t t = segment.begin; t < segment.begin + segment.count; ++t) {
          const float *a = args.a.f32() + (t * R + h) * D, *b = args.b.f32() + (t * R + h) * D;
          for (int64_t i = 0; i < D; ++i) {
            float *row = dB + i * D, ai = a[i];
#pragma omp simd
            for (int64_t j = 0; j < D; ++j) row[j] += ai * b[j];
          }
        }
      }
    }
  });
}

}  // namespace wuneng::kernels::cpu

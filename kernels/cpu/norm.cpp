#include "kernels/norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kGrain = 16;  // rows

float sum_of_squares(const float* x, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

float dot(const float* x, const float* y, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

}  // namespace

void rms_norm(const Stream&, const RmsNormArgs& args) {
  const int64_t D = args.x.dim(-1), rows = args.x.numel() / std::max<int64_t>(1, D);
  if (!rows) return;
  const F32In weight(args.weight);
  const int64_t H = args.weight.numel() / D;
  const float *x = args.x.f32(), *w = weight.data(), *base = args.base.defined() ? args.base.f32() : nullptr;
  float* y = args.y.f32();
  parallel_for(rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *xi = x + i * D, *wi = w + i % H * D;
      if (base) {
        const float* bi = base + i * D;
        float* sum = args.sum.f32() + i * D;
        for (int64_t c = 0; c < D; ++c) sum[c] = xi[c] + bi[c];
        xi = sum;
      }
      float* yi = y + i * D;
      const float scale = 1.0f / std::sqrt(sum_of_squares(xi, D) / D + args.eps);
#pragma omp simd
      for (int64_t c = 0; c < D; ++c) yi[c] = xi[c] * scale * wi[c];
    }
  });
}

void rms_norm_backward(const Stream&, const RmsNormBackwardArgs& args) {
  const int64_t D = args.x.dim(-1), rows = args.x.numel() / std::max<int64_t>(1, D);
  if (!rows) return;
  const F32In weight(args.weight);
  const int64_t H = args.weight.numel() / D;
  const float *x = args.x.f32(), *w = weight.data(), *dy = args.dy.f32();
  std::vector<float> scales(rows);
  const auto scale_of = [&](int64_t i) {
    return scales[i] = 1.0f / std::sqrt(sum_of_squares(x + i * D, D) / D + args.eps);
  };
  if (args.dx.defined())
    add_to(args.dx, [&](auto sum) {
      parallel_for(rows, kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const float *xi = x + i * D, *wi = w + i % H * D, *dyi = dy + i * D, scale = scale_of(i);
          float inner = 0;
#pragma omp simd reduction(+ : inner)
          for (int64_t c = 0; c < D; ++c) inner += dyi[c] * wi[c] * xi[c];
          const float back = inner * scale * scale * scale / D;
#pragma omp simd
          for (int64_t c = 0; c < D; ++c) sum(i * D + c, dyi[c] * wi[c] * scale - xi[c] * back);
        }
      });
    });
  else
    for (int64_t i = 0; i < rows; ++i) scale_of(i);
  if (!args.dweight.defined()) return;
  float* dw = args.dweight.f32();
  // Split over columns: the order of the sum over rows does not depend on the thread count.
  parallel_for(D, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < rows; ++i) {
      const float *xi = x + i * D, *dyi = dy + i * D, scale = scales[i];
      float* dwi = dw + i % H * D;
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) dwi[c] += dyi[c] * xi[c] * scale;
    }
  });
}

void l2_norm(const Stream&, const L2NormArgs& args) {
  const int64_t D = args.x.dim(-1), rows = args.x.numel() / std::max<int64_t>(1, D);
  parallel_for(rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* xi = args.x.f32() + i * D;
      float* yi = args.y.f32() + i * D;
      const float scale = 1.0f / std::max(std::sqrt(sum_of_squares(xi, D)), 1e-12f);
#pragma omp simd
      for (int64_t c = 0; c < D; ++c) yi[c] = xi[c] * scale;
    }
  });
}

void l2_norm_backward(const Stream&, const L2NormBackwardArgs& args) {
  const int64_t D = args.x.dim(-1), rows = args.x.numel() / std::max<int64_t>(1, D);
  add_to(args.dx, [&](auto sum) {
    parallel_for(rows, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float *xi = args.x.f32() + i * D, *dyi = args.dy.f32() + i * D;
        const float norm = std::sqrt(sum_of_squares(xi, D));
        const float scale = 1.0f / std::max(norm, 1e-12f);
        const float back = norm > 1e-12f ? dot(xi, dyi, D) * scale * scale * scale
                                         : 0.0f;  // below it, the norm is a constant
#pragma omp simd
        for (int64_t c = 0; c < D; ++c) sum(i * D + c, dyi[c] * scale - xi[c] * back);
      }
    });
  });
}

void center(const Stream&, const CenterArgs& args) {
  const int64_t D = args.x.dim(-1), rows = args.x.numel() / std::max<int64_t>(1, D);
  const float* x = args.x.f32();
  add_to(args.y, [&](auto sum) {
    parallel_for(rows, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t c = 0; c < D; ++c) total += x[i * D + c];
        const float mean = total / D;
#pragma omp simd
        for (int64_t c = 0; c < D; ++c) sum(i * D + c, x[i * D + c] - mean);
      }
    });
  });
}

}  // namespace wuneng::kernels::cpu

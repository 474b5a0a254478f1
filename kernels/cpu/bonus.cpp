#include "kernels/bonus.h"

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

float dot(const float* x, const float* y, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// f(first element of the row) for all rows, split over threads.
template <class F>
void by_rows(const Tensor& x, const F& f) {
  const int64_t D = x.dim(-1);
  parallel_for(x.numel() / D, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i * D);
  });
}

}  // namespace

void bonus(const Stream&, const BonusArgs& args) {
  const int64_t D = args.v.dim(-1);
  const float *a = args.a.f32(), *b = args.b.f32(), *v = args.v.f32(), *base = args.base.f32();
  float* y = args.y.f32();
  by_rows(args.v, [=](int64_t i) {
    const float scale = dot(a + i, b + i, D);
#pragma omp simd
    for (int64_t c = i; c < i + D; ++c) y[c] = base[c] + scale * v[c];
  });
}

void bonus_backward(const Stream&, const BonusBackwardArgs& args) {
  const int64_t D = args.v.dim(-1);
  const float *a = args.a.f32(), *b = args.b.f32(), *v = args.v.f32(), *dy = args.dy.f32();
  const auto scaled = [&](const Gradient& gradient, const float* x, const float* left, const float* right) {
    if (!gradient.defined()) return;
    add_to(gradient, [&](auto sum) {
      by_rows(args.v, [=](int64_t i) {
        const float scale = dot(left + i, right + i, D);
#pragma omp simd
        for (int64_t c = i; c < i + D; ++c) sum(c, scale * x[c]);
      });
    });
  };
  scaled(args.da, b, dy, v);
  scaled(args.db, a, dy, v);
  scaled(args.dv, dy, a, b);
}

}  // namespace wuneng::kernels::cpu

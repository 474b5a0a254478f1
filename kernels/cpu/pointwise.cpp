#include "kernels/pointwise.h"

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kGrain = 1 << 13;  // elements

// for_each(n, f): f(i) for all i, split over threads and vectorised.
template <class F>
void for_each(int64_t n, const F& f) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

}  // namespace

void pointwise(const Stream&, const PointwiseArgs& args) {
  const int64_t n = args.a.numel();
  const float *a = args.a.f32(), *b = args.b.defined() ? args.b.f32() : nullptr,
              *c = args.c.defined() ? args.c.f32() : nullptr;
  float* y = args.y.f32();
  switch (args.function) {
    case Pointwise::silu:
      return for_each(n, [=](int64_t i) { y[i] = silu(a[i]); });
    case Pointwise::tanh:
      return for_each(n, [=](int64_t i) { y[i] = tanh_fast(a[i]); });
    case Pointwise::sigmoid:
      return for_each(n, [=](int64_t i) { y[i] = sigmoid(a[i]); });
    case Pointwise::swiglu:
      return for_each(n, [=](int64_t i) { y[i] = silu(a[i]) * b[i]; });
    case Pointwise::mix:
      return for_each(n, [=](int64_t i) { y[i] = c[i] * a[i] + (1 - c[i]) * b[i]; });
    case Pointwise::add:
      return for_each(n, [=](int64_t i) { y[i] = a[i] + b[i]; });
  }
}

void pointwise_backward(const Stream&, const PointwiseBackwardArgs& args) {
  const int64_t n = args.dy.numel();
  const auto in = [](const Tensor& t) { return t.defined() ? t.f32() : nullptr; };
  const float *a = in(args.a), *b = in(args.b), *c = in(args.c), *y = in(args.y), *dy = args.dy.f32();
  // A gradient that is not wanted is written to a scratch tensor, to avoid a branch in the loop.
  const auto sum = [](const Gradient& g, const Tensor& of) {
    return g.defined() ? g.begun() : of.defined() ? Tensor::empty(of.shape()) : Tensor();
  };
  const Tensor sum_a = sum(args.da, args.a), sum_b = sum(args.db, args.b), sum_c = sum(args.dc, args.c);
  float *da = sum_a.f32(), *db = sum_b.defined() ? sum_b.f32() : nullptr,
        *dc = sum_c.defined() ? sum_c.f32() : nullptr;
  switch (args.function) {
    case Pointwise::silu:
      return for_each(n, [=](int64_t i) {
        const float s = sigmoid(a[i]);
        da[i] += dy[i] * s * (1 + a[i] * (1 - s));
      });
    case Pointwise::tanh:
      return for_each(n, [=](int64_t i) { da[i] += dy[i] * (1 - y[i] * y[i]); });
    case Pointwise::sigmoid:
      return for_each(n, [=](int64_t i) { da[i] += dy[i] * y[i] * (1 - y[i]); });
    case Pointwise::swiglu:
      return for_each(n, [=](int64_t i) {
        const float s = sigmoid(a[i]);
        da[i] += dy[i] * b[i] * s * (1 + a[i] * (1 - s));
        db[i] += dy[i] * a[i] * s;
      });
    case Pointwise::mix:
      return for_each(n, [=](int64_t i) {
        da[i] += dy[i] * c[i];
        db[i] += dy[i] * (1 - c[i]);
        dc[i] += dy[i] * (a[i] - b[i]);
      });
    case Pointwise::add:
      return for_each(n, [=](int64_t i) {
        da[i] += dy[i];
        db[i] += dy[i];
      });
  }
}

}  // namespace wuneng::kernels::cpu

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
    case Pointwise::mix:
      return for_each(n, [=](int64_t i) { y[i] = c[i] * a[i] + (1 - c[i]) * b[i]; });
    case Pointwise::add:
      return for_each(n, [=](int64_t i) { y[i] = a[i] + b[i]; });
    case Pointwise::gate:
      return for_each(n, [=](int64_t i) { y[i] = a[i] * (1 + b[i]); });
  }
}

void pointwise_backward(const Stream&, const PointwiseBackwardArgs& args) {
  const int64_t n = args.dy.numel();
  const auto in = [](const Tensor& t) { return t.defined() ? t.f32() : nullptr; };
  const float *a = in(args.a), *b = in(args.b), *c = in(args.c), *y = in(args.y), *dy = args.dy.f32();
  // A gradient that is not wanted is written to a scratch tensor, to avoid a branch in the loop.
  const auto wanted = [](const Gradient& g, const Tensor& of) {
    return g.defined() || !of.defined() ? g : Gradient(Tensor::empty(of.shape()), {});
  };
  const Gradient da = wanted(args.da, args.a), db = wanted(args.db, args.b), dc = wanted(args.dc, args.c);
  // f(i, sum_a) for all i, or f(i, sum_a, sum_b).
  const auto to_a = [&](const auto& f) {
    add_to(da, [&](auto sum_a) { for_each(n, [=](int64_t i) { f(i, sum_a); }); });
  };
  const auto to_both = [&](const auto& f) {
    add_to(da, [&](auto sum_a) {
      add_to(db, [&](auto sum_b) { for_each(n, [=](int64_t i) { f(i, sum_a, sum_b); }); });
    });
  };
  switch (args.function) {
    case Pointwise::silu:
      return to_a([=](int64_t i, auto sum_a) {
        const float s = sigmoid(a[i]);
        sum_a(i, dy[i] * s * (1 + a[i] * (1 - s)));
      });
    case Pointwise::tanh:
      return to_a([=](int64_t i, auto sum_a) { sum_a(i, dy[i] * (1 - y[i] * y[i])); });
    case Pointwise::sigmoid:
      return to_a([=](int64_t i, auto sum_a) { sum_a(i, dy[i] * y[i] * (1 - y[i])); });
    case Pointwise::mix:
      add_to(dc, [&](auto sum_c) { for_each(n, [=](int64_t i) { sum_c(i, dy[i] * (a[i] - b[i])); }); });
      return to_both([=](int64_t i, auto sum_a, auto sum_b) {
        sum_a(i, dy[i] * c[i]);
        sum_b(i, dy[i] * (1 - c[i]));
      });
    case Pointwise::add:
      return to_both([=](int64_t i, auto sum_a, auto sum_b) {
        sum_a(i, dy[i]);
        sum_b(i, dy[i]);
      });
    case Pointwise::gate:
      return to_both([=](int64_t i, auto sum_a, auto sum_b) {
        sum_a(i, dy[i] * (1 + b[i]));
        sum_b(i, dy[i] * a[i]);
      });
  }
}

}  // namespace wuneng::kernels::cpu

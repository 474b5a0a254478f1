#include "kernels/swiglu.h"

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kGrain = 1 << 13;  // elements

// f(first element of row t of [T, F]) for all rows.
template <class Function>
void for_each_row(int64_t T, int64_t F, const Function& f) {
  if (F == 0) return;
  parallel_for(T, std::max<int64_t>(1, kGrain / F), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(t * F);
  });
}

}  // namespace

void swiglu(const Stream&, const SwigluArgs& args) {
  const int64_t T = args.y.dim(0), F = args.y.dim(1);
  WUNENG_ASSERT(args.x.dim(0) == T && args.x.dim(1) == 2 * F);
  for_each_row(T, F, [&, x = args.x.f32(), y = args.y.f32()](int64_t row) {
    const float *a = x + 2 * row, *b = a + F;
    float* const to = y + row;
#pragma omp simd
    for (int64_t c = 0; c < F; ++c) to[c] = silu(a[c]) * b[c];
  });
}

void swiglu_backward(const Stream&, const SwigluBackwardArgs& args) {
  const int64_t T = args.dy.dim(0), F = args.dy.dim(1);
  WUNENG_ASSERT(args.x.dim(0) == T && args.x.dim(1) == 2 * F);
  add_to(args.dx, [&](auto sum) {
    for_each_row(T, F, [&, x = args.x.f32(), dy = args.dy.f32()](int64_t row) {
      const float *a = x + 2 * row, *b = a + F, *g = dy + row;
#pragma omp simd
      for (int64_t c = 0; c < F; ++c) {
        const float s = sigmoid(a[c]);
        sum(2 * row + c, g[c] * b[c] * s * (1 + a[c] * (1 - s)));
        sum(2 * row + F + c, g[c] * a[c] * s);
      }
    });
  });
}

}  // namespace wuneng::kernels::cpu

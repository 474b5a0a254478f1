#include "kernels/adamw.h"

#include <cmath>

#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

struct Pass {
  float *w, *m, *v;
  const float* g;
  bf16* stored;
  float b1, b2, eps, scale;
  float rate;        // lr / (1 - b1^t)
  float correction;  // 1 / sqrt(1 - b2^t)
  float
      shrink;  // lr decay, applied as a part of the update: 1 - lr decay would lose most of its digits in f32
};

// Bound by memory: each element is read and written once, its bf16 copy included.
template <bool kStored>
void update(const Pass& pass, int64_t begin, int64_t end) {
  const auto [w, m, v, g, stored, b1, b2, eps, scale, rate, correction, shrink] = pass;
  const float c1 = 1 - b1, c2 = 1 - b2;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float gi = g[i] * scale;
    const float mi = b1 * m[i] + c1 * gi, vi = b2 * v[i] + c2 * gi * gi;
    const float wi = w[i] - (rate * mi / (std::sqrt(vi) * correction + eps) + shrink * w[i]);
    m[i] = mi;
    v[i] = vi;
    w[i] = wi;
    if constexpr (kStored)
      stored[i].bits = bf16(wi).bits;  // gcc vectorises a store of a number, not of a struct
  }
}

}  // namespace

void adamw(const Stream&, const AdamwArgs& args) {
  const int64_t n = args.master.numel();
  for (const Tensor* t : {&args.m, &args.v, &args.gradient}) WUNENG_ASSERT(t->numel() == n);
  WUNENG_ASSERT(!args.stored.defined() || args.stored.numel() == n);
  const double t = double(args.step);
  const Pass pass{.w = args.master.f32(),
                  .m = args.m.f32(),
                  .v = args.v.f32(),
                  .g = args.gradient.f32(),
                  .stored = args.stored.defined() ? args.stored.data<bf16>() : nullptr,
                  .b1 = args.beta1,
                  .b2 = args.beta2,
                  .eps = args.eps,
                  .scale = args.gradient_scale,
                  .rate = static_cast<float>(args.lr / (1 - std::pow(double(args.beta1), t))),
                  .correction = static_cast<float>(1 / std::sqrt(1 - std::pow(double(args.beta2), t))),
                  .shrink = args.lr * args.decay};
  parallel_for(n, 1 << 14, [&](int64_t begin, int64_t end) {
    pass.stored ? update<true>(pass, begin, end) : update<false>(pass, begin, end);
  });
}

}  // namespace wuneng::kernels::cpu

#include "kernels/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

struct Pass {
  float *w, *m, *v;
  float* g;
  bf16* stored;
  float b1, b2, eps, scale;
  float rate, correction;
  float
      shrink;  // lr decay, applied as a part of the update: 1 - lr decay would lose most of its digits in f32
};

// Memory-bound: each element, its bf16 copy included, is read and written once.
template <bool kStored>
void update(const Pass& pass, int64_t begin, int64_t end) {
  float *const w = pass.w, *const m = pass.m, *const v = pass.v;
  const float* const g = pass.g;
  bf16* const stored = pass.stored;
  const float b1 = pass.b1, b2 = pass.b2, c1 = 1 - b1, c2 = 1 - b2, eps = pass.eps, scale = pass.scale,
              rate = pass.rate, correction = pass.correction, shrink = pass.shrink;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float gi = g[i] * scale;
    const float mi = b1 * m[i] + c1 * gi, vi = b2 * v[i] + c2 * gi * gi;
    const float wi = w[i] - (rate * mi / (std::sqrt(vi) * correction + eps) + shrink * w[i]);
    m[i] = mi;
    v[i] = vi;
    w[i] = wi;
    if constexpr (kStored)
      stored[i].bits = bf16(wi).bits;  // gcc vectorises the store of an integer, not that of a struct
  }
}

}  // namespace

void adamw(const Stream&, const AdamwArgs& args) {
  const float scale = args.gradient_scale.defined() ? args.gradient_scale.f32()[0] : 1;
  if (std::isnan(scale)) {
    for (const AdamwTensors& one : args.tensors) one.gradient.zero();
    return;
  }
  for (const AdamwTensors& one : args.tensors) {
    const int64_t n = one.master.numel();
    for (const Tensor* t : {&one.m, &one.v, &one.gradient}) WUNENG_ASSERT(t->numel() == n);
    WUNENG_ASSERT(!one.stored.defined() || one.stored.numel() == n);
    const Pass pass{.w = one.master.f32(),
                    .m = one.m.f32(),
                    .v = one.v.f32(),
                    .g = one.gradient.f32(),
                    .stored = one.stored.defined() ? one.stored.data<bf16>() : nullptr,
                    .b1 = args.beta1,
                    .b2 = args.beta2,
                    .eps = args.eps,
                    .scale = scale,
                    .rate = args.rate(),
                    .correction = args.correction(),
                    .shrink = args.lr * one.decay};
    constexpr int64_t kPiece =
        1 << 13;  // small enough that the gradient is still in the cache when it is cleared
    parallel_for(n, 1 << 14, [&](int64_t begin, int64_t end) {
      for (; begin < end; begin += kPiece) {
        const int64_t to = std::min(end, begin + kPiece);
        pass.stored ? update<true>(pass, begin, to) : update<false>(pass, begin, to);
        std::memset(pass.g + begin, 0, static_cast<size_t>(to - begin) * sizeof(float));
      }
    });
  }
}

}  // namespace wuneng::kernels::cpu

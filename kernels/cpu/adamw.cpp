#include "kernels/adamw.h"

#include <cmath>

#include "runtime/threads.h"

namespace wuneng::kernels::cpu {

void adamw(const Stream&, const AdamwArgs& args) {
  float *w = args.master.f32(), *m = args.m.f32(), *v = args.v.f32();
  const float* g = args.gradient.f32();
  bf16* stored = args.stored.defined() ? args.stored.data<bf16>() : nullptr;
  const float b1 = args.beta1, b2 = args.beta2, eps = args.eps, scale = args.gradient_scale, shrink = 1 - args.lr * args.decay;
  const float step = static_cast<float>(args.lr / (1 - std::pow(double(b1), double(args.step))));
  const float correction = static_cast<float>(1 / std::sqrt(1 - std::pow(double(b2), double(args.step))));
  parallel_for(args.master.numel(), 1 << 14, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float gi = g[i] * scale;
      m[i] = b1 * m[i] + (1 - b1) * gi;
      v[i] = b2 * v[i] + (1 - b2) * gi * gi;
      w[i] = w[i] * shrink - step * m[i] / (std::sqrt(v[i]) * correction + eps);
    }
    if (stored)
      for (int64_t i = begin; i < end; ++i) stored[i] = bf16(w[i]);
  });
}

}  // namespace wuneng::kernels::cpu

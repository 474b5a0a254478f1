#include <cmath>

#include "kernels/adamw.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

void adamw(const Stream& stream, const AdamwArgs& args) {
  const int64_t n = args.master.numel();
  for (const Tensor* t : {&args.m, &args.v, &args.gradient}) WUNENG_ASSERT(t->numel() == n);
  WUNENG_ASSERT(!args.stored.defined() || args.stored.numel() == n);
  const double t = double(args.step);
  const float rate = static_cast<float>(args.lr / (1 - std::pow(double(args.beta1), t)));
  const float correction = static_cast<float>(1 / std::sqrt(1 - std::pow(double(args.beta2), t)));
  const float shrink = args.lr * args.decay, b1 = args.beta1, b2 = args.beta2, eps = args.eps,
              scale = args.gradient_scale;
  float *w = args.master.f32(), *m = args.m.f32(), *v = args.v.f32();
  const float* g = args.gradient.f32();
  bf16* stored = args.stored.defined() ? args.stored.data<bf16>() : nullptr;
  wuneng::cuda::for_each(stream, "adamw", n, [=] __device__(int64_t i) {
    const float gi = g[i] * scale;
    const float mi = b1 * m[i] + (1 - b1) * gi, vi = b2 * v[i] + (1 - b2) * gi * gi;
    const float wi = w[i] - (rate * mi / (sqrtf(vi) * correction + eps) + shrink * w[i]);
    m[i] = mi;
    v[i] = vi;
    w[i] = wi;
    if (stored) wuneng::cuda::assign(stored[i], wi);
  });
}

}  // namespace wuneng::kernels::cuda

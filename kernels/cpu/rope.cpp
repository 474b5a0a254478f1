#include "kernels/rope.h"

#include <cmath>

#include "kernels/channel.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {

void rope_cos_sin(const Stream&, const RopeCosSinArgs& args) {
  const int64_t T = args.cos_sin.dim(1), half = args.cos_sin.dim(2);
  WUNENG_ASSERT(static_cast<int64_t>(args.frequencies.size()) == half);
  const double *frequency = args.frequencies.data(), factor = args.factor;
  const int32_t* positions = args.positions.data<int32_t>();
  float *cosine = args.cos_sin.f32(), *sine = cosine + T * half;
  parallel_for(T, 8, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = positions[t] * frequency[i];
        cosine[t * half + i] = static_cast<float>(factor * std::cos(angle));
        sine[t * half + i] = static_cast<float>(factor * std::sin(angle));
      }
  });
}

void rope(const Stream& stream, const RopeArgs& args) {
  const int64_t T = args.x.dim(0), H = args.x.dim(1), D = args.x.dim(2), half = D / 2;
  const float *cos_sin = args.cos_sin.f32(), *base = args.base.defined() ? args.base.f32() : nullptr,
              sign = args.inverse ? -1.0f : 1.0f;
  const Tensor sum = args.added.defined() ? Tensor::empty(args.x.shape()) : args.x;
  if (args.added.defined()) scale_heads(stream, {.x = args.added, .s = args.scale, .base = args.x, .y = sum});
  parallel_for(T, 8, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float *cosine = cos_sin + t * half, *sine = cos_sin + (T + t) * half;
      for (int64_t h = 0; h < H; ++h) {
        const int64_t at = (t * H + h) * D;
        const float *x = sum.f32() + at, *b = base ? base + at : nullptr;
        float* y = args.y.f32() + at;
        for (int64_t i = 0; i < half; ++i) {
          const float first = x[i] * cosine[i] - sign * x[half + i] * sine[i];
          const float second = x[half + i] * cosine[i] + sign * x[i] * sine[i];
          y[i] = b ? b[i] + first : first;
          y[half + i] = b ? b[half + i] + second : second;
        }
      }
    }
  });
}

}  // namespace wuneng::kernels::cpu

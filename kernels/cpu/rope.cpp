#include "kernels/rope.h"

#include <cmath>

#include "runtime/threads.h"

namespace wuneng::kernels::cpu {

void rope(const Stream&, const RopeArgs& args) {
  const int64_t T = args.x.dim(0), H = args.x.dim(1), D = args.x.dim(2), half = D / 2;
  std::vector<double> frequency(half);
  for (int64_t i = 0; i < half; ++i) frequency[i] = std::pow(double(args.theta), -double(i) / half);
  const int32_t* positions = args.positions.data<int32_t>();
  parallel_for(T, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> cosine(half), sine(half);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = positions[t] * frequency[i];
        cosine[i] = static_cast<float>(std::cos(angle));
        sine[i] = static_cast<float>(args.inverse ? -std::sin(angle) : std::sin(angle));
      }
      for (int64_t h = 0; h < H; ++h) {
        const float* x = args.x.f32() + (t * H + h) * D;
        float* y = args.y.f32() + (t * H + h) * D;
        for (int64_t i = 0; i < half; ++i) {
          const float first = x[i] * cosine[i] - x[half + i] * sine[i];
          const float second = x[half + i] * cosine[i] + x[i] * sine[i];
          y[i] = args.accumulate ? y[i] + first : first;
          y[half + i] = args.accumulate ? y[half + i] + second : second;
        }
      }
    }
  });
}

}  // namespace wuneng::kernels::cpu

#include <cmath>

#include "kernels/cuda/upload.h"
#include "kernels/rope.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {

using namespace wuneng::cuda;

void rope_turns(const Stream& stream, const RopeTurnsArgs& args) {
  const int64_t T = args.turns.dim(1), half = args.turns.dim(2);
  std::vector<double> frequencies(half);
  for (int64_t i = 0; i < half; ++i) frequencies[i] = std::pow(double(args.theta), -double(i) / half);
  const Tensor frequency_table = upload(frequencies, args.turns.device());
  const double* frequency = frequency_table.data<double>();
  const int32_t* positions = args.positions.data<int32_t>();
  float* turn = args.turns.f32();
  for_each(stream, "rope_turns", T * half, [=] __device__(int64_t i) {
    const double angle =
        positions[i / half] * frequency[i % half];  // f32 would lose the turns of far positions
    turn[i] = static_cast<float>(cos(angle));
    turn[T * half + i] = static_cast<float>(sin(angle));
  });
}

void rope(const Stream& stream, const RopeArgs& args) {
  const int64_t T = args.x.dim(0), H = args.x.dim(1), D = args.x.dim(2), half = D / 2;
  const Elements x(args.x);
  const Sum y({args.y, args.base});
  const Others turn(args.turns);
  const float sign = args.inverse ? -1.0f : 1.0f;
  for_each_in_rows(stream, "rope", Width({args.x, args.y, args.base}, {args.turns}), T, H * half, half,
                   [=] __device__(int64_t t, auto c) {
                     const int64_t h = c.at / half;
                     const auto i = c - h * half, at = (t * H + h) * D + i;
                     const auto cosine = turn[t * half + i], sine = sign * turn[(T + t) * half + i],
                                first = x[at], second = x[at + half];
                     y.put(at, first * cosine - second * sine);
                     y.put(at + half, second * cosine + first * sine);
                   });
}

}  // namespace wuneng::kernels::cuda

#include <cmath>

#include "kernels/cuda/upload.h"
#include "kernels/rope.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using wuneng::cuda::Floats;
using wuneng::cuda::floats;
using wuneng::cuda::for_each_in_rows;

void rope(const Stream& stream, const RopeArgs& args) {
  const int64_t T = args.x.dim(0), H = args.x.dim(1), D = args.x.dim(2), half = D / 2;
  std::vector<double> frequencies(half);
  for (int64_t i = 0; i < half; ++i) frequencies[i] = std::pow(double(args.theta), -double(i) / half);
  const Tensor frequency_table = upload(frequencies, args.x.device());
  const Tensor turns = Tensor::empty({2, T, half}, DType::f32, args.x.device());  // cosines, then sines
  const double* frequency = frequency_table.data<double>();
  const int32_t* positions = args.positions.data<int32_t>();
  float* turn = turns.f32();
  const float sign = args.inverse ? -1.0f : 1.0f;
  for_each_in_rows(stream, "rope angles", T, half, [=] __device__(int64_t t, int64_t c) {
    const double angle = positions[t] * frequency[c];  // f32 would lose the turns of far positions
    turn[t * half + c] = static_cast<float>(cos(angle));
    turn[(T + t) * half + c] = sign * static_cast<float>(sin(angle));
  });
  const Floats x = floats(args.x), y = floats(args.y);
  const bool accumulate = args.accumulate;
  for_each_in_rows(stream, "rope", T, H * half, [=] __device__(int64_t t, int64_t c) {
    const int64_t i = c % half, at = (t * H + c / half) * D + i;
    const float cosine = turn[t * half + i], sine = turn[(T + t) * half + i];
    const float first = x[at] * cosine - x[at + half] * sine, second = x[at + half] * cosine + x[at] * sine;
    y.set(at, accumulate ? y[at] + first : first);
    y.set(at + half, accumulate ? y[at + half] + second : second);
  });
}

}  // namespace wuneng::kernels::cuda

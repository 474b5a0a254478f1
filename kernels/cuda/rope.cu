#include "kernels/cuda/common/upload.h"
#include "kernels/rope.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {

using namespace wuneng::cuda;

void rope_cos_sin(const Stream& stream, const RopeCosSinArgs& args) {
  const int64_t T = args.cos_sin.dim(1), half = args.cos_sin.dim(2);
  WUNENG_ASSERT(static_cast<int64_t>(args.frequencies.size()) == half);
  const Tensor frequency_table = upload(args.frequencies, args.cos_sin.device());
  const double *frequency = frequency_table.data<double>(), factor = args.factor;
  const int32_t* positions = args.positions.data<int32_t>();
  float* cos_sin = args.cos_sin.f32();
  for_each(stream, "rope_cos_sin", T * half, [=] __device__(int64_t i) {
    const double angle =
        positions[i / half] * frequency[i % half];  // f32 would lose the angle's fraction at far positions
    cos_sin[i] = static_cast<float>(factor * cos(angle));
    cos_sin[T * half + i] = static_cast<float>(factor * sin(angle));
  });
}

void rope(const Stream& stream, const RopeArgs& args) {
  const int64_t T = args.x.dim(0), H = args.x.dim(1), D = args.x.dim(2), half = D / 2;
  const Operand x(args.x), added(args.added);
  const AnyTypeOperand scale(args.scale);
  const GradientOutput y({args.y, args.base});
  const AnyTypeOperand cos_sin(args.cos_sin);
  const float sign = args.inverse ? -1.0f : 1.0f;
  for_each_in_rows(stream, "rope", VectorWidth({args.x, args.y, args.base, args.added}, {args.cos_sin}), T,
                   H * half, half, [=] __device__(int64_t t, auto c) {
                     const int64_t h = c.first / half;
                     const auto i = c - h * half, at = (t * H + h) * D + i;
                     const auto cosine = cos_sin[t * half + i], sine = sign * cos_sin[(T + t) * half + i];
                     auto first = x[at], second = x[at + half];
                     if (added) {
                       const float s = scale[h];
                       first = first + s * added[at];
                       second = second + s * added[at + half];
                     }
                     y.write(at, first * cosine - second * sine);
                     y.write(at + half, second * cosine + first * sine);
                   });
}

}  // namespace wuneng::kernels::cuda

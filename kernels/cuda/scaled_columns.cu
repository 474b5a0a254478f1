#include "kernels/cuda/scaled_columns.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using namespace wuneng::cuda;

void scaled_columns(const Stream& stream, const ScaledColumns& args) {
  const int64_t N = args.x.dim(1);
  const float *x = args.x.f32(), *column_scale = f32_or_null(args.column_scale), scale = args.scale;
  const FloatPointer base = float_pointer(args.base), bias = float_pointer(args.bias),
                     y = float_pointer(args.y);
  for_each(stream, "scaled_columns", args.x.numel(), [=] __device__(int64_t i) {
    const int64_t n = i % N;
    float sum = x[i] * (column_scale ? scale * column_scale[n] : scale);
    if (base) sum += base[i];
    if (bias) sum += bias[n];
    y.store(i, sum);
  });
}

}  // namespace wuneng::kernels::cuda

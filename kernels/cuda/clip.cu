#include "kernels/clip.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

__global__ void __launch_bounds__(1) clip_scale_kernel(const double* squares, double most, float* scale) {
  const double norm = sqrt(squares[0]);
  *scale = !(norm < INFINITY) ? NAN : most > 0 && norm > most ? static_cast<float>(most / norm) : 1.0f;
}

}  // namespace

void clip_scale(const Stream& stream, const ClipScaleArgs& args) {
  launch(stream, "clip_scale", clip_scale_kernel, dim3(1), dim3(1), 0,
         static_cast<const double*>(args.squares.data<double>()), args.max_norm, args.scale.f32());
}

}  // namespace wuneng::kernels::cuda

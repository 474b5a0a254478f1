// Gradient clipping by the global norm, without the host: the optimizer's kernel reads the factor where this
// one has left it.
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

// scale [1] f32 = the factor that brings a gradient whose squares add up to squares [1] f64 down to a norm of
// at most max_norm: 1 where it is below, or max_norm is 0 (no clipping); NaN where the sum is not finite.
struct ClipScaleArgs {
  Tensor squares;
  double max_norm;
  Tensor scale;
};
WUNENG_KERNEL(clip_scale, ClipScaleArgs);

}  // namespace wuneng::kernels

#include "kernels/clip.h"

#include <cmath>
#include <limits>

namespace wuneng::kernels::cpu {

void clip_scale(const Stream&, const ClipScaleArgs& args) {
  const double norm = std::sqrt(args.squares.data<double>()[0]), most = args.max_norm;
  args.scale.f32()[0] = !std::isfinite(norm)      ? std::numeric_limits<float>::quiet_NaN()
                        : most > 0 && norm > most ? static_cast<float>(most / norm)
                                                  : 1.0f;
}

}  // namespace wuneng::kernels::cpu

// Rotary embedding in Qwen2's half-rotation layout: channel i rotates with channel i + D/2 by position *
// frequency i (model/rope_settings.h).
#pragma once
#include <vector>

#include "kernels/backend.h"

namespace wuneng::kernels {

// The cosines and sines of all rotation angles of a micro-batch, times `factor`.
struct RopeCosSinArgs {
  Tensor positions;                 // [T] i32, counted from the document's start
  std::vector<double> frequencies;  // [D / 2], radians a token
  double factor = 1;
  Tensor cos_sin;  // [2, T, D / 2] f32
};
WUNENG_KERNEL(rope_cos_sin, RopeCosSinArgs);

struct RopeArgs {
  Tensor x;              // [T, H, D]
  Tensor cos_sin;        // [2, T, D / 2] f32, from rope_cos_sin
  bool inverse = false;  // rotate by the negative angle: the gradient
  Tensor y;              // [T, H, D]; may be x itself
  Tensor base;           // added to the rotated x: of y's shape, may be y; undefined: none
  Tensor added, scale;   // [T, H, D], weight [H]: x + scale_h added_h is rotated in place of x; undefined: x
};
WUNENG_KERNEL(rope, RopeArgs);

}  // namespace wuneng::kernels

// Rotary embedding in Qwen2's half-rotation layout: channel i turns with channel i + D/2 by position *
// theta^(-2i/D).
#pragma once
#include <vector>

#include "kernels/twin.h"

namespace wuneng::kernels {

struct RopeArgs {
  Tensor x;          // [T, H, D]
  Tensor positions;  // [T] i32, counted from the document's start
  float theta;
  bool inverse = false;  // turn back: the gradient of a rotation
  bool accumulate = false;
  Tensor y;  // [T, H, D]; may be x itself
};
WUNENG_KERNEL(rope, RopeArgs);

}  // namespace wuneng::kernels

// Rows of 8-bit numbers with a scale each: a quarter of the bytes of f32 on the way from rank to rank.
//
// A packed row of C numbers is C + 4 bytes: the numbers n_c of -127..127, then the bytes of the scale s in
// f32. It stands for s n_c, and s = max |x_c| / 127: the error of an element is at most s / 2. A row in which
// a number is not finite stands for NaN.
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

inline constexpr int64_t kScaleBytes = 4;
inline constexpr float kLeastScaled =
    1e-30f;  // a row without larger numbers stands for zeros: s has an inverse

// packed [T, C + 4] i8 from x [T, C] f32 or bf16.
struct PackScaledArgs {
  Tensor x, packed;
};
WUNENG_KERNEL(pack_scaled, PackScaledArgs);

// x [T, C] f32 from packed [T, C + 4] i8.
struct UnpackScaledArgs {
  Tensor packed, x;
};
WUNENG_KERNEL(unpack_scaled, UnpackScaledArgs);

}  // namespace wuneng::kernels

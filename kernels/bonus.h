// RWKV-7's bonus: what a token reads of its own key and value beside the state (docs/model.md, "The other
// student").
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

// y_th = base_th + (a_th . b_th) v_th over tokens t and heads h.
struct BonusArgs {
  Tensor a, b, v, base, y;  // [T, H, D]
};
WUNENG_KERNEL(bonus, BonusArgs);
struct BonusBackwardArgs {
  Tensor a, b, v, dy;
  Gradient da, db, dv;  // base's gradient is dy itself
};
WUNENG_KERNEL(bonus_backward, BonusBackwardArgs);

}  // namespace wuneng::kernels

// Matrix products.
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

// c = scale * op(a) op(b) + accumulate * c + base + bias, all 2-D row-major, op = transpose where said.
// a, b: f32 or bf16; c: f32, or bf16 on a GPU, [M, N]. Empty M, N or K are allowed (the product of K = 0 is
// zero).
//
// With a bf16 operand a GPU rounds the other one to bf16 as well and multiplies in tensor cores, summing in
// f32. The CPU computes in f32 throughout.
struct MatmulArgs {
  Tensor a;  // [M, K], or [K, M] transposed
  Tensor b;  // [K, N], or [N, K] transposed
  Tensor c;  // [M, N]
  bool transpose_a = false;
  bool transpose_b = false;
  float scale = 1.0f;
  float accumulate = 0.0f;  // 0: overwrite, 1: add
  Tensor base;              // [M, N], of c's type, may be c, or undefined: none. Not with accumulate.
  Tensor bias;              // weight [N], for every row, or undefined: none
  Tensor sums;              // [M] f32 += the sums of op(a)'s rows, a transposed; or undefined: not wanted
  DType like = DType::f32;  // bf16: as if an operand were bf16 (a weight's gradient, from two activations)
};
WUNENG_KERNEL(matmul, MatmulArgs);

// One small product per head, on [T, heads, ...] activations: y[t, h] = op(w[h]) x[t, h] + base[t, h].
// transpose = false: x [T, H, I], w [H, O, I], y [T, H, O].  transpose = true: x [T, H, O], w
// [H, O, I], y [T, H, I].
struct HeadMatmulArgs {
  Tensor x;
  Tensor w;  // weight
  Tensor y;
  bool transpose = false;
  Tensor base;  // as y, may be y, or undefined: none
};
WUNENG_KERNEL(head_matmul, HeadMatmulArgs);

// Weight gradient of the above: dw[h] += sum_t dy[t, h] x[t, h]^T.  dy [T, H, O], x [T, H, I], dw [H, O, I]
// f32.
struct HeadMatmulWeightGradArgs {
  Tensor dy, x, dw;
  DType like = DType::f32;  // as above
};
WUNENG_KERNEL(head_matmul_weight_grad, HeadMatmulWeightGradArgs);

}  // namespace wuneng::kernels

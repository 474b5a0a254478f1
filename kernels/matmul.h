// Matrix products.
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

// c = scale * op(a) op(b) + accumulate * c + base + bias, all 2-D row-major; op transposes if transpose_a or
// transpose_b is set. a, b: f32 or bf16; c: f32, or bf16 on a GPU, [M, N]. M, N and K may be 0 (K = 0: the
// product is zero).
//
// by_row, b transposed, with at most kFewRows rows (on a GPU kFewRowsOnGpu): a row of c is to the bit what it
// is alone, and b is read once, in its own type, which may also be f16 or i8; sums are of f32 products.
//
// Otherwise, if one operand is bf16, a GPU rounds the other one to bf16 as well and multiplies on tensor
// cores with f32 accumulation; it takes b in f16 and i8 for bf16 numbers. The CPU computes in f32 throughout.
inline constexpr int64_t kFewRows = 32, kFewRowsOnGpu = 16;
struct MatmulArgs {
  Tensor a;  // [M, K], or [K, M] transposed
  Tensor b;  // [K, N], or [N, K] transposed
  Tensor c;  // [M, N]
  bool transpose_a = false;
  bool transpose_b = false;
  float scale = 1.0f;
  float accumulate = 0.0f;  // 0: overwrite, 1: add
  Tensor base;              // [M, N], of c's type, may be c; undefined: none. Not with accumulate.
  Tensor bias;              // weight [N], added to every row; undefined: none
  Tensor sums;              // [M] f32 += row sums of op(a), a transposed; undefined: not computed
  Tensor b_scale;           // [N] f32, of b in i8, transposed: row n of b is b_scale[n] b[n]
  DType like = DType::f32;  // bf16: compute as if an operand were bf16 (weight gradients)
  bool by_row = false;
};
inline double flops_of(const MatmulArgs& a) {
  return 2.0 * double(a.c.numel()) * double(a.a.dim(a.transpose_a ? 0 : 1));
}
WUNENG_KERNEL(matmul, MatmulArgs);

// One small product per head, on [T, heads, ...] activations: y[t, h] = op(w[h]) x[t, h] + base[t, h].
// transpose = false: x [T, H, I], w [H, O, I], y [T, H, O].  transpose = true: x [T, H, O], w
// [H, O, I], y [T, H, I].
struct HeadMatmulArgs {
  Tensor x;
  Tensor w;  // weight
  Tensor y;
  bool transpose = false;
  Tensor base;          // as y, may be y; undefined: none
  bool by_row = false;  // as MatmulArgs::by_row; not with transpose
};
inline double flops_of(const HeadMatmulArgs& a) { return 2.0 * double(a.x.dim(0)) * double(a.w.numel()); }
WUNENG_KERNEL(head_matmul, HeadMatmulArgs);

// Weight gradient of head_matmul: dw[h] += sum_t dy[t, h] x[t, h]^T.  dy [T, H, O], x [T, H, I], dw [H, O, I]
// f32.
struct HeadMatmulWeightGradArgs {
  Tensor dy, x, dw;
  DType like = DType::f32;  // as MatmulArgs::like
};
inline double flops_of(const HeadMatmulWeightGradArgs& a) {
  return 2.0 * double(a.x.dim(0)) * double(a.dw.numel());
}
WUNENG_KERNEL(head_matmul_weight_grad, HeadMatmulWeightGradArgs);

}  // namespace wuneng::kernels

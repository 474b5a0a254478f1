#include "kernels/matmul.h"

#include "kernels/channel.h"
#include "kernels/cuda/common/blas.h"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/scaled_columns.h"

namespace wuneng::kernels::cuda {
namespace {

// Both operands in one type, which cublasLt requires: bf16 if one of them or `like` is bf16, else f32.
struct Operands {
  DType type;
  Tensor a, b;
  Operands(const Tensor& x, const Tensor& y, DType like = DType::f32)
      : type(x.dtype() == DType::bf16 || y.dtype() == DType::bf16 || like == DType::bf16 ? DType::bf16
                                                                                         : DType::f32),
        a(x.to(type)),
        b(y.to(type)) {}
};

// K = 0: the product is zero.
void without_product(const Stream& stream, const MatmulArgs& args) {
  if (args.base.defined() && args.base.raw() != args.c.raw())
    args.c.copy_from(args.base);
  else if (!args.base.defined() && args.accumulate == 0)
    args.c.zero();
  if (args.bias.defined()) add_bias(stream, {.x = args.c, .bias = args.bias, .y = args.c});
}

bool is_narrow(const Tensor& b) { return b.dtype() == DType::i8 || b.dtype() == DType::f16; }

// Many rows with a matrix in i8 or f16: the product of bf16 numbers, exact for i8, whose scales come after.
void narrow_matmul(const Stream& stream, const MatmulArgs& args) {
  const Tensor wide = Tensor::empty(args.c.shape(), DType::f32, args.c.device());
  MatmulArgs product{.a = args.a, .b = args.b.to(DType::bf16), .c = wide, .transpose_b = true};
  cuda::matmul(stream, product);
  scaled_columns(stream, {.x = wide,
                          .scale = args.scale,
                          .column_scale = args.b_scale,
                          .base = args.accumulate != 0 ? args.c : args.base,
                          .bias = args.bias,
                          .y = args.c});
}

}  // namespace

void matmul(const Stream& stream, const MatmulArgs& args) {
  const int64_t M = args.c.dim(0), N = args.c.dim(1), K = args.a.dim(args.transpose_a ? 0 : 1);
  if (args.a.dim(args.transpose_a ? 1 : 0) != M || args.b.dim(args.transpose_b ? 1 : 0) != K ||
      args.b.dim(args.transpose_b ? 0 : 1) != N)
    fail("matmul: a {}{} times b {}{} is not c {}", to_string(args.a.shape()),
         args.transpose_a ? " transposed" : "", to_string(args.b.shape()),
         args.transpose_b ? " transposed" : "", to_string(args.c.shape()));
  WUNENG_ASSERT(!args.base.defined() || (args.base.shape() == args.c.shape() && args.accumulate == 0));
  WUNENG_ASSERT(!args.bias.defined() || args.bias.numel() == N);
  WUNENG_ASSERT(args.b_scale.defined() == (args.b.dtype() == DType::i8));
  WUNENG_ASSERT(!is_narrow(args.b) || (args.transpose_b && !args.transpose_a && !args.sums.defined()));
  if (args.by_row && M <= kFewRowsOnGpu && args.transpose_b && !args.transpose_a && !args.sums.defined())
    return few_rows(stream, {.a = args.a,
                             .lda = K,
                             .b = args.b,
                             .c = args.c,
                             .base = args.base,
                             .ldc = N,
                             .bias = args.bias,
                             .b_scale = args.b_scale,
                             .scale = args.scale,
                             .accumulate = args.accumulate,
                             .M = M,
                             .N = N,
                             .K = K});
  if (is_narrow(args.b)) return narrow_matmul(stream, args);
  if (K == 0) return without_product(stream, args);
  const Operands x(args.a, args.b, args.like);
  const Tensor bias = args.bias.defined() ? args.bias.to(args.c.dtype()) : Tensor();
  Product product{.type = x.type,
                  .m = M,
                  .n = N,
                  .k = K,
                  .a = {x.a.raw(), x.a.dim(1), 0, args.transpose_a},
                  .b = {x.b.raw(), x.b.dim(1), 0, args.transpose_b},
                  .scale = args.scale,
                  .accumulate = args.base.defined() ? 1 : args.accumulate,
                  .from = args.base.defined() ? args.base.raw() : nullptr,
                  .bias = bias.defined() ? bias.raw() : nullptr,
                  .out = args.c,
                  .ld = N};
  // Not from operands that were rounded to bf16 for the product: the sums would be less exact.
  const bool together = args.sums.defined() && args.transpose_a && args.a.dtype() == x.type &&
                        args.c.dtype() == DType::f32 && !args.bias.defined() && M > 0 && N > 0;
  if (together) {
    const Tensor sums = Tensor::empty({M}, DType::f32, args.c.device());
    product.sums = sums.f32();
    if (multiply(stream, product)) return args.sums.add(sums);
    product.sums = nullptr;
  }
  multiply(stream, product);
  if (args.sums.defined()) column_sum(stream, {.dy = args.a, .dbias = args.sums});
}

void head_matmul(const Stream& stream, const HeadMatmulArgs& args) {
  const int64_t T = args.x.dim(0), H = args.w.dim(0), O = args.w.dim(1), I = args.w.dim(2);
  const int64_t in = args.transpose ? O : I, out = args.transpose ? I : O;
  WUNENG_ASSERT(args.x.dim(1) == H && args.x.dim(2) == in && args.y.dim(1) == H && args.y.dim(2) == out);
  if (args.by_row && T <= kFewRowsOnGpu && !args.transpose)
    return few_rows(stream, {.a = args.x,
                             .lda = H * I,
                             .a_step = I,
                             .b = args.w,
                             .b_step = O * I,
                             .c = args.y,
                             .base = args.base,
                             .ldc = H * O,
                             .c_step = O,
                             .M = T,
                             .N = O,
                             .K = I,
                             .batch = H});
  if (in == 0) Gradient(args.y, args.base).begun();
  if (T == 0 || in == 0) return;
  const Operands x(args.x, args.w);
  multiply(stream, {.type = x.type,
                    .m = T,
                    .n = out,
                    .k = in,
                    .batch = H,
                    .a = {x.a.raw(), H * in, in},
                    .b = {x.b.raw(), I, O * I, !args.transpose},
                    .accumulate = args.base.defined() ? 1.0f : 0.0f,
                    .from = args.base.defined() ? args.base.raw() : nullptr,
                    .out = args.y,
                    .ld = H * out,
                    .step = out});
}

void head_matmul_weight_grad(const Stream& stream, const HeadMatmulWeightGradArgs& args) {
  const int64_t T = args.x.dim(0), H = args.dw.dim(0), O = args.dw.dim(1), I = args.dw.dim(2);
  WUNENG_ASSERT(args.dy.dim(1) == H && args.dy.dim(2) == O && args.x.dim(1) == H && args.x.dim(2) == I);
  if (T == 0) return;
  const Operands x(args.dy, args.x, args.like);
  multiply(stream, {.type = x.type,
                    .m = O,
                    .n = I,
                    .k = T,
                    .batch = H,
                    .a = {x.a.raw(), H * O, O, true},
                    .b = {x.b.raw(), H * I, I},
                    .accumulate = 1,
                    .out = args.dw,
                    .ld = I,
                    .step = O * I});
}

}  // namespace wuneng::kernels::cuda

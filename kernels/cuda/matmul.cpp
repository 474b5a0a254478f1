#include "kernels/matmul.h"

#include "kernels/cuda/blas.h"

namespace wuneng::kernels::cuda {
namespace {

// Both operands in one type, as cuBLAS wants them: bf16 where one is or is asked for, else f32.
struct Operands {
  DType type;
  Tensor a, b;
  Operands(const Tensor& x, const Tensor& y, DType like = DType::f32)
      : type(x.dtype() == DType::bf16 || y.dtype() == DType::bf16 || like == DType::bf16 ? DType::bf16
                                                                                         : DType::f32),
        a(x.to(type)),
        b(y.to(type)) {}
};

}  // namespace

void matmul(const Stream& stream, const MatmulArgs& args) {
  const int64_t M = args.c.dim(0), N = args.c.dim(1), K = args.a.dim(args.transpose_a ? 0 : 1);
  if (args.a.dim(args.transpose_a ? 1 : 0) != M || args.b.dim(args.transpose_b ? 1 : 0) != K ||
      args.b.dim(args.transpose_b ? 0 : 1) != N)
    fail("matmul: a {}{} times b {}{} is not c {}", to_string(args.a.shape()),
         args.transpose_a ? " transposed" : "", to_string(args.b.shape()),
         args.transpose_b ? " transposed" : "", to_string(args.c.shape()));
  if (K == 0 && args.accumulate == 0) args.c.zero();
  if (K == 0) return;
  const Operands x(args.a, args.b, args.like);
  gemm(stream, x.type, M, N, K, args.scale, {x.a.raw(), x.a.dim(1), 0, args.transpose_a},
       {x.b.raw(), x.b.dim(1), 0, args.transpose_b}, args.accumulate, args.c, N);
}

void head_matmul(const Stream& stream, const HeadMatmulArgs& args) {
  const int64_t T = args.x.dim(0), H = args.w.dim(0), O = args.w.dim(1), I = args.w.dim(2);
  const int64_t in = args.transpose ? O : I, out = args.transpose ? I : O;
  WUNENG_ASSERT(args.x.dim(1) == H && args.x.dim(2) == in && args.y.dim(1) == H && args.y.dim(2) == out);
  if (in == 0 && !args.accumulate) args.y.zero();
  if (T == 0 || in == 0) return;
  const Operands x(args.x, args.w);
  gemm(stream, x.type, T, out, in, 1, {x.a.raw(), H * in, in}, {x.b.raw(), I, O * I, !args.transpose},
       args.accumulate ? 1.0f : 0.0f, args.y, H * out, out, H);
}

void head_matmul_weight_grad(const Stream& stream, const HeadMatmulWeightGradArgs& args) {
  const int64_t T = args.x.dim(0), H = args.dw.dim(0), O = args.dw.dim(1), I = args.dw.dim(2);
  WUNENG_ASSERT(args.dy.dim(1) == H && args.dy.dim(2) == O && args.x.dim(1) == H && args.x.dim(2) == I);
  if (T == 0) return;
  const Operands x(args.dy, args.x, args.like);
  gemm(stream, x.type, O, I, T, 1, {x.a.raw(), H * O, O, true}, {x.b.raw(), H * I, I}, 1, args.dw, I, O * I,
       H);
}

}  // namespace wuneng::kernels::cuda

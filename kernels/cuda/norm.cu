#include "kernels/cuda/common/column_reduce.h"
#include "kernels/cuda/common/row_kernel.h"
#include "kernels/norm.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

struct RmsNorm {
  float eps;
  Operand x, base, sum, y;
  AnyTypeOperand w;

  template <class R>
  __device__ void run(const R& row) const {
    const float squares = row.sum([&](auto i, auto) {
      const auto value = base ? x[i] + base[i] : x[i];
      return value * value;
    });
    if (!row.there) return;
    const float scale = 1.0f / sqrtf(squares / row.D + eps);
    row.each([&](auto i, auto c) {
      const auto value = base ? x[i] + base[i] : x[i];
      if (base) sum.store(i, value);
      y.store(i, value * scale * w[c]);
    });
  }
};

// Writes scales [rows] for the weight gradient; dx may be null.
struct RmsNormBackward {
  float eps;
  Operand x, dy;
  AnyTypeOperand w;
  GradientOutput dx;
  float* scales;

  template <class R>
  __device__ void run(const R& row) const {
    const float squares = row.sum([&](auto i, auto) { return x[i] * x[i]; });
    const float scale = 1.0f / sqrtf(squares / row.D + eps);
    if (row.there && threadIdx.x == 0) scales[row.i] = scale;
    if (!dx) return;
    const float inner = row.sum([&](auto i, auto c) { return dy[i] * w[c] * x[i]; });
    if (!row.there) return;
    const float back = inner * scale * scale * scale / row.D;
    row.each([&](auto i, auto c) { dx.write(i, dy[i] * w[c] * scale - x[i] * back); });
  }
};

struct L2Norm {
  Operand x, y;

  template <class R>
  __device__ void run(const R& row) const {
    const float squares = row.sum([&](auto i, auto) { return x[i] * x[i]; });
    if (!row.there) return;
    const float scale = 1.0f / fmaxf(sqrtf(squares), 1e-12f);
    row.each([&](auto i, auto) { y.store(i, x[i] * scale); });
  }
};

struct L2NormBackward {
  Operand x, dy;
  GradientOutput dx;

  template <class R>
  __device__ void run(const R& row) const {
    const float norm = sqrtf(row.sum([&](auto i, auto) { return x[i] * x[i]; }));
    const float scale = 1.0f / fmaxf(norm, 1e-12f),
                inner = row.sum([&](auto i, auto) { return x[i] * dy[i]; });
    if (!row.there) return;
    const float back =
        norm > 1e-12f ? inner * scale * scale * scale : 0.0f;  // below it, the norm is a constant
    row.each([&](auto i, auto) { dx.write(i, dy[i] * scale - x[i] * back); });
  }
};

struct Center {
  Operand x;
  GradientOutput y;

  template <class R>
  __device__ void run(const R& row) const {
    const float mean = row.sum([&](auto i, auto) { return x[i]; }) / row.D;
    if (row.there) row.each([&](auto i, auto) { y.write(i, x[i] - mean); });
  }
};

}  // namespace

void rms_norm(const Stream& stream, const RmsNormArgs& args) {
  for_each_row(stream, "rms_norm", VectorWidth({args.x, args.base, args.sum, args.y}, {args.weight}), args.x,
               args.weight.numel() / args.x.dim(-1),
               RmsNorm{args.eps, Operand(args.x), Operand(args.base), Operand(args.sum), Operand(args.y),
                       AnyTypeOperand(args.weight)});
}

void rms_norm_backward(const Stream& stream, const RmsNormBackwardArgs& args) {
  const int64_t D = args.x.dim(-1), C = args.weight.numel(), H = C / D, rows = args.x.numel() / D;
  const Tensor scales = Tensor::empty({rows}, DType::f32, args.x.device());
  const Operand x(args.x), dy(args.dy);
  const float* scale = scales.f32();
  const VectorWidth width({args.x, args.dy, args.dx.out, args.dx.base}, {args.weight});
  for_each_row(
      stream, "rms_norm backward", width, args.x, H,
      RmsNormBackward{args.eps, x, dy, AnyTypeOperand(args.weight), GradientOutput(args.dx), scales.f32()});
  if (args.dweight.defined())
    column_reduce(stream, "rms_norm backward", width, rows / H, C, D, args.dweight,
                  [=] __device__(int64_t t, auto c) {
                    return dy[t * C + c] * x[t * C + c] * scale[t * H + c.first / D];
                  });
}

void l2_norm(const Stream& stream, const L2NormArgs& args) {
  for_each_row(stream, "l2_norm", VectorWidth({args.x, args.y}), args.x, 1,
               L2Norm{Operand(args.x), Operand(args.y)});
}

void l2_norm_backward(const Stream& stream, const L2NormBackwardArgs& args) {
  for_each_row(stream, "l2_norm backward", VectorWidth({args.x, args.dy, args.dx.out, args.dx.base}), args.x,
               1, L2NormBackward{Operand(args.x), Operand(args.dy), GradientOutput(args.dx)});
}

void center(const Stream& stream, const CenterArgs& args) {
  for_each_row(stream, "center", VectorWidth({args.x, args.y.out, args.y.base}), args.x, 1,
               Center{Operand(args.x), GradientOutput(args.y)});
}

}  // namespace wuneng::kernels::cuda

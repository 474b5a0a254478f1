#include "kernels/pointwise.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

template <int N>
__device__ FloatVector<N> sigmoid(const FloatVector<N>& x) {
  return map(x, [](float v) { return 1.0f / (1.0f + expf(-v)); });
}

}  // namespace

void pointwise(const Stream& stream, const PointwiseArgs& args) {
  const int64_t n = args.a.numel();
  const VectorWidth width({args.a, args.b, args.c, args.y});
  const Operand a(args.a), b(args.b), c(args.c), y(args.y);
  switch (args.function) {
    case Pointwise::silu:
      return for_each(stream, "silu", width, n, [=] __device__(auto i) { y.store(i, a[i] * sigmoid(a[i])); });
    case Pointwise::tanh:
      return for_each(stream, "tanh", width, n,
                      [=] __device__(auto i) { y.store(i, map(a[i], [](float x) { return tanhf(x); })); });
    case Pointwise::sigmoid:
      return for_each(stream, "sigmoid", width, n, [=] __device__(auto i) { y.store(i, sigmoid(a[i])); });
    case Pointwise::mix:
      return for_each(stream, "mix", width, n, [=] __device__(auto i) {
        const auto ai = a[i], bi = b[i], ci = c[i];
        y.store(i, ci * ai + (1 - ci) * bi);
      });
    case Pointwise::add:
      return for_each(stream, "add", width, n, [=] __device__(auto i) { y.store(i, a[i] + b[i]); });
    case Pointwise::gate:
      return for_each(stream, "gate", width, n, [=] __device__(auto i) { y.store(i, a[i] * (1 + b[i])); });
  }
}

void pointwise_backward(const Stream& stream, const PointwiseBackwardArgs& args) {
  const int64_t n = args.dy.numel();
  const VectorWidth width({args.dy, args.a, args.b, args.c, args.y, args.da.out, args.da.base, args.db.out,
                           args.db.base, args.dc.out, args.dc.base});
  const Operand a(args.a), b(args.b), c(args.c), y(args.y), dy(args.dy);
  const GradientOutput da(args.da), db(args.db), dc(args.dc);
  switch (args.function) {
    case Pointwise::silu:
      return for_each(stream, "silu backward", width, n, [=] __device__(auto i) {
        const auto ai = a[i], s = sigmoid(ai);
        da.write(i, dy[i] * s * (1 + ai * (1 - s)));
      });
    case Pointwise::tanh:
      return for_each(stream, "tanh backward", width, n, [=] __device__(auto i) {
        const auto yi = y[i];
        da.write(i, dy[i] * (1 - yi * yi));
      });
    case Pointwise::sigmoid:
      return for_each(stream, "sigmoid backward", width, n, [=] __device__(auto i) {
        const auto yi = y[i];
        da.write(i, dy[i] * yi * (1 - yi));
      });
    case Pointwise::mix:
      return for_each(stream, "mix backward", width, n, [=] __device__(auto i) {
        const auto ai = a[i], bi = b[i], ci = c[i], dyi = dy[i];
        if (da) da.write(i, dyi * ci);
        if (db) db.write(i, dyi * (1 - ci));
        if (dc) dc.write(i, dyi * (ai - bi));
      });
    case Pointwise::add:
      return for_each(stream, "add backward", width, n, [=] __device__(auto i) {
        const auto dyi = dy[i];
        if (da) da.write(i, dyi);
        if (db) db.write(i, dyi);
      });
    case Pointwise::gate:
      return for_each(stream, "gate backward", width, n, [=] __device__(auto i) {
        const auto ai = a[i], bi = b[i], dyi = dy[i];
        if (da) da.write(i, dyi * (1 + bi));
        if (db) db.write(i, dyi * ai);
      });
  }
}

}  // namespace wuneng::kernels::cuda

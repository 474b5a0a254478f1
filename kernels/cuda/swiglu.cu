#include "kernels/swiglu.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

template <int N>
__device__ FloatVector<N> sigmoid(const FloatVector<N>& x) {
  return map(x, [](float v) { return 1.0f / (1.0f + expf(-v)); });
}

}  // namespace

void swiglu(const Stream& stream, const SwigluArgs& args) {
  const int64_t T = args.y.dim(0), F = args.y.dim(1);
  WUNENG_ASSERT(args.x.dim(0) == T && args.x.dim(1) == 2 * F);
  const Operand x(args.x), y(args.y);
  for_each_in_rows(stream, "swiglu", VectorWidth({args.x, args.y}), T, F, F,
                   [=] __device__(int64_t t, auto c) {
                     const auto a = x[2 * t * F + c], b = x[(2 * t + 1) * F + c];
                     y.store(t * F + c, a * sigmoid(a) * b);
                   });
}

void swiglu_backward(const Stream& stream, const SwigluBackwardArgs& args) {
  const int64_t T = args.dy.dim(0), F = args.dy.dim(1);
  WUNENG_ASSERT(args.x.dim(0) == T && args.x.dim(1) == 2 * F);
  const Operand x(args.x), dy(args.dy);
  const GradientOutput dx(args.dx);
  for_each_in_rows(stream, "swiglu backward", VectorWidth({args.x, args.dy, args.dx.out, args.dx.base}), T, F,
                   F, [=] __device__(int64_t t, auto c) {
                     const auto at_a = 2 * t * F + c, at_b = (2 * t + 1) * F + c;
                     const auto a = x[at_a], b = x[at_b], g = dy[t * F + c], s = sigmoid(a);
                     dx.write(at_a, g * b * s * (1 + a * (1 - s)));
                     dx.write(at_b, g * a * s);
                   });
}

}  // namespace wuneng::kernels::cuda

#include "kernels/pointwise.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using wuneng::cuda::Floats;
using wuneng::cuda::floats;
using wuneng::cuda::for_each;

namespace {

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ float silu(float x) { return x * sigmoid(x); }

}  // namespace

void pointwise(const Stream& stream, const PointwiseArgs& args) {
  const int64_t n = args.a.numel();
  const Floats a = floats(args.a), b = floats(args.b), c = floats(args.c), y = floats(args.y);
  switch (args.function) {
    case Pointwise::silu:
      return for_each(stream, "silu", n, [=] __device__(int64_t i) { y.set(i, silu(a[i])); });
    case Pointwise::tanh:
      return for_each(stream, "tanh", n, [=] __device__(int64_t i) { y.set(i, tanhf(a[i])); });
    case Pointwise::sigmoid:
      return for_each(stream, "sigmoid", n, [=] __device__(int64_t i) { y.set(i, sigmoid(a[i])); });
    case Pointwise::swiglu:
      return for_each(stream, "swiglu", n, [=] __device__(int64_t i) { y.set(i, silu(a[i]) * b[i]); });
    case Pointwise::mix:
      return for_each(stream, "mix", n,
                      [=] __device__(int64_t i) { y.set(i, c[i] * a[i] + (1 - c[i]) * b[i]); });
    case Pointwise::add:
      return for_each(stream, "add", n, [=] __device__(int64_t i) { y.set(i, a[i] + b[i]); });
  }
}

void pointwise_backward(const Stream& stream, const PointwiseBackwardArgs& args) {
  const int64_t n = args.dy.numel();
  const Floats a = floats(args.a), b = floats(args.b), c = floats(args.c), y = floats(args.y),
               dy = floats(args.dy), da = floats(args.da), db = floats(args.db), dc = floats(args.dc);
  switch (args.function) {
    case Pointwise::silu:
      return for_each(stream, "silu backward", n, [=] __device__(int64_t i) {
        const float s = sigmoid(a[i]);
        da.add(i, dy[i] * s * (1 + a[i] * (1 - s)));
      });
    case Pointwise::tanh:
      return for_each(stream, "tanh backward", n,
                      [=] __device__(int64_t i) { da.add(i, dy[i] * (1 - y[i] * y[i])); });
    case Pointwise::sigmoid:
      return for_each(stream, "sigmoid backward", n,
                      [=] __device__(int64_t i) { da.add(i, dy[i] * y[i] * (1 - y[i])); });
    case Pointwise::swiglu:
      return for_each(stream, "swiglu backward", n, [=] __device__(int64_t i) {
        const float s = sigmoid(a[i]);
        da.add(i, dy[i] * b[i] * s * (1 + a[i] * (1 - s)));
        db.add(i, dy[i] * a[i] * s);
      });
    case Pointwise::mix:
      return for_each(stream, "mix backward", n, [=] __device__(int64_t i) {
        da.add(i, dy[i] * c[i]);
        db.add(i, dy[i] * (1 - c[i]));
        dc.add(i, dy[i] * (a[i] - b[i]));
      });
    case Pointwise::add:
      return for_each(stream, "add backward", n, [=] __device__(int64_t i) {
        if (da) da.add(i, dy[i]);
        if (db) db.add(i, dy[i]);
      });
  }
}

}  // namespace wuneng::kernels::cuda

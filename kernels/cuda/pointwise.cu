#include "kernels/pointwise.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using wuneng::cuda::for_each;
using wuneng::cuda::optional;

namespace {

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ float silu(float x) { return x * sigmoid(x); }

}  // namespace

void pointwise(const Stream& stream, const PointwiseArgs& args) {
  const int64_t n = args.a.numel();
  const float *a = args.a.f32(), *b = optional(args.b), *c = optional(args.c);
  float* y = args.y.f32();
  switch (args.function) {
    case Pointwise::silu:
      return for_each(stream, "silu", n, [=] __device__(int64_t i) { y[i] = silu(a[i]); });
    case Pointwise::tanh:
      return for_each(stream, "tanh", n, [=] __device__(int64_t i) { y[i] = tanhf(a[i]); });
    case Pointwise::sigmoid:
      return for_each(stream, "sigmoid", n, [=] __device__(int64_t i) { y[i] = sigmoid(a[i]); });
    case Pointwise::swiglu:
      return for_each(stream, "swiglu", n, [=] __device__(int64_t i) { y[i] = silu(a[i]) * b[i]; });
    case Pointwise::mix:
      return for_each(stream, "mix", n,
                      [=] __device__(int64_t i) { y[i] = c[i] * a[i] + (1 - c[i]) * b[i]; });
    case Pointwise::add:
      return for_each(stream, "add", n, [=] __device__(int64_t i) { y[i] = a[i] + b[i]; });
  }
}

void pointwise_backward(const Stream& stream, const PointwiseBackwardArgs& args) {
  const int64_t n = args.dy.numel();
  const float *a = optional(args.a), *b = optional(args.b), *c = optional(args.c), *y = optional(args.y),
              *dy = args.dy.f32();
  float *da = optional(args.da), *db = optional(args.db), *dc = optional(args.dc);
  switch (args.function) {
    case Pointwise::silu:
      return for_each(stream, "silu backward", n, [=] __device__(int64_t i) {
        const float s = sigmoid(a[i]);
        da[i] += dy[i] * s * (1 + a[i] * (1 - s));
      });
    case Pointwise::tanh:
      return for_each(stream, "tanh backward", n,
                      [=] __device__(int64_t i) { da[i] += dy[i] * (1 - y[i] * y[i]); });
    case Pointwise::sigmoid:
      return for_each(stream, "sigmoid backward", n,
                      [=] __device__(int64_t i) { da[i] += dy[i] * y[i] * (1 - y[i]); });
    case Pointwise::swiglu:
      return for_each(stream, "swiglu backward", n, [=] __device__(int64_t i) {
        const float s = sigmoid(a[i]);
        da[i] += dy[i] * b[i] * s * (1 + a[i] * (1 - s));
        db[i] += dy[i] * a[i] * s;
      });
    case Pointwise::mix:
      return for_each(stream, "mix backward", n, [=] __device__(int64_t i) {
        da[i] += dy[i] * c[i];
        db[i] += dy[i] * (1 - c[i]);
        dc[i] += dy[i] * (a[i] - b[i]);
      });
    case Pointwise::add:
      return for_each(stream, "add backward", n, [=] __device__(int64_t i) {
        if (da) da[i] += dy[i];
        if (db) db[i] += dy[i];
      });
  }
}

}  // namespace wuneng::kernels::cuda

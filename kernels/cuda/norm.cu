// A warp a row.
#include "kernels/cuda/column_reduce.h"
#include "kernels/norm.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kRows = kBlock / kWarp;  // of a block

dim3 grid_for(int64_t rows) { return dim3(blocks_for(rows, kRows)); }
dim3 block() { return dim3(kWarp, kRows); }
__device__ int64_t my_row() { return int64_t{blockIdx.x} * kRows + threadIdx.y; }

__device__ float dot(Floats a, Floats b, int64_t D) {
  float sum = 0;
  for (int64_t c = threadIdx.x; c < D; c += kWarp) sum += a[c] * b[c];
  return warp_sum(sum);
}

__global__ void rms_norm_kernel(int64_t rows, int64_t H, int64_t D, float eps, Floats x, Floats w, Floats y) {
  const int64_t i = my_row();
  if (i >= rows) return;
  const Floats xi = x.from(i * D), wi = w.from(i % H * D);
  const float scale = 1.0f / sqrtf(dot(xi, xi, D) / D + eps);
  for (int64_t c = threadIdx.x; c < D; c += kWarp) y.set(i * D + c, xi[c] * scale * wi[c]);
}

// scales [rows] for the weight's gradient; dx may be null.
__global__ void rms_norm_backward_kernel(int64_t rows, int64_t H, int64_t D, float eps, Floats x, Floats w,
                                         Floats dy, Floats dx, float* scales) {
  const int64_t i = my_row();
  if (i >= rows) return;
  const Floats xi = x.from(i * D), wi = w.from(i % H * D), dyi = dy.from(i * D);
  const float scale = 1.0f / sqrtf(dot(xi, xi, D) / D + eps);
  if (threadIdx.x == 0) scales[i] = scale;
  if (!dx) return;
  float inner = 0;
  for (int64_t c = threadIdx.x; c < D; c += kWarp) inner += dyi[c] * wi[c] * xi[c];
  const float back = warp_sum(inner) * scale * scale * scale / D;
  for (int64_t c = threadIdx.x; c < D; c += kWarp) dx.add(i * D + c, dyi[c] * wi[c] * scale - xi[c] * back);
}

__global__ void l2_norm_kernel(int64_t rows, int64_t D, Floats x, Floats y) {
  const int64_t i = my_row();
  if (i >= rows) return;
  const Floats xi = x.from(i * D);
  const float scale = 1.0f / fmaxf(sqrtf(dot(xi, xi, D)), 1e-12f);
  for (int64_t c = threadIdx.x; c < D; c += kWarp) y.set(i * D + c, xi[c] * scale);
}

__global__ void l2_norm_backward_kernel(int64_t rows, int64_t D, Floats x, Floats dy, Floats dx) {
  const int64_t i = my_row();
  if (i >= rows) return;
  const Floats xi = x.from(i * D), dyi = dy.from(i * D);
  const float norm = sqrtf(dot(xi, xi, D)), scale = 1.0f / fmaxf(norm, 1e-12f), inner = dot(xi, dyi, D);
  const float back =
      norm > 1e-12f ? inner * scale * scale * scale : 0.0f;  // below it, the norm is a constant
  for (int64_t c = threadIdx.x; c < D; c += kWarp) dx.add(i * D + c, dyi[c] * scale - xi[c] * back);
}

int64_t row_count(const Tensor& x) { return x.numel() / std::max<int64_t>(1, x.dim(-1)); }

}  // namespace

void rms_norm(const Stream& stream, const RmsNormArgs& args) {
  const int64_t D = args.x.dim(-1), rows = row_count(args.x);
  launch(stream, "rms_norm", rms_norm_kernel, grid_for(rows), block(), 0, rows, args.weight.numel() / D, D,
         args.eps, floats(args.x), floats(args.weight), floats(args.y));
}

void rms_norm_backward(const Stream& stream, const RmsNormBackwardArgs& args) {
  const int64_t D = args.x.dim(-1), rows = row_count(args.x), C = args.weight.numel(), H = C / D;
  const Tensor scales = Tensor::empty({rows}, DType::f32, args.x.device());
  const Floats x = floats(args.x), dy = floats(args.dy);
  const float* scale = scales.f32();
  launch(stream, "rms_norm backward", rms_norm_backward_kernel, grid_for(rows), block(), 0, rows, H, D,
         args.eps, x, floats(args.weight), dy, floats(args.dx), scales.f32());
  if (args.dweight.defined())
    column_reduce(
        stream, "rms_norm backward", rows / H, C, args.dweight,
        [=] __device__(int64_t t, int64_t c) { return dy[t * C + c] * x[t * C + c] * scale[t * H + c / D]; });
}

void l2_norm(const Stream& stream, const L2NormArgs& args) {
  const int64_t D = args.x.dim(-1), rows = row_count(args.x);
  launch(stream, "l2_norm", l2_norm_kernel, grid_for(rows), block(), 0, rows, D, floats(args.x),
         floats(args.y));
}

void l2_norm_backward(const Stream& stream, const L2NormBackwardArgs& args) {
  const int64_t D = args.x.dim(-1), rows = row_count(args.x);
  launch(stream, "l2_norm backward", l2_norm_backward_kernel, grid_for(rows), block(), 0, rows, D,
         floats(args.x), floats(args.dy), floats(args.dx));
}

}  // namespace wuneng::kernels::cuda

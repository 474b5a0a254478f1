// A block per row.
#include "kernels/row_scaled.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

__global__ void __launch_bounds__(kBlock) pack_scaled_kernel(FloatPointer x, int64_t C, int8_t* packed) {
  __shared__ float of_warp[2][kBlock / kWarp];
  const int64_t t = blockIdx.x;
  const FloatPointer row = x.from(t * C);
  int8_t* const to = packed + t * (C + kScaleBytes);
  float largest = 0, zeros = 0;
  for (int64_t c = threadIdx.x; c < C; c += kBlock) {
    largest = fmaxf(largest, fabsf(row[c]));
    zeros += row[c] * 0.0f;  // NaN where one is not finite
  }
  largest = warp_max(largest), zeros = warp_sum(zeros);
  if (threadIdx.x % kWarp == 0) {
    of_warp[0][threadIdx.x / kWarp] = largest;
    of_warp[1][threadIdx.x / kWarp] = zeros;
  }
  __syncthreads();
  for (int w = 0; w < kBlock / kWarp; ++w) {
    largest = fmaxf(largest, of_warp[0][w]);
    zeros += of_warp[1][w];
  }
  if (largest < kLeastScaled) largest = 0;
  const bool finite = zeros == 0;
  const float inverse = largest > 0 ? 127 / largest : 0.0f;
  for (int64_t c = threadIdx.x; c < C; c += kBlock)
    to[c] = static_cast<int8_t>(finite ? rintf(row[c] * inverse) : 0.0f);
  if (threadIdx.x >= kScaleBytes) return;
  const float scale = finite ? largest / 127 : zeros;
  to[C + threadIdx.x] = reinterpret_cast<const int8_t*>(&scale)[threadIdx.x];  // rows are not aligned
}

__global__ void __launch_bounds__(kBlock) unpack_scaled_kernel(const int8_t* packed, int64_t C, float* x) {
  const int64_t t = blockIdx.x;
  const int8_t* const from = packed + t * (C + kScaleBytes);
  float scale;
  for (int i = 0; i < kScaleBytes; ++i) reinterpret_cast<int8_t*>(&scale)[i] = from[C + i];
  for (int64_t c = threadIdx.x; c < C; c += kBlock) x[t * C + c] = scale * as_float(from[c]);
}

}  // namespace

void pack_scaled(const Stream& stream, const PackScaledArgs& args) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1);
  WUNENG_ASSERT(args.packed.shape() == (Shape{T, C + kScaleBytes}));
  launch(stream, "pack_scaled", pack_scaled_kernel, dim3(T), dim3(kBlock), 0, float_pointer(args.x), C,
         args.packed.data<int8_t>());
}

void unpack_scaled(const Stream& stream, const UnpackScaledArgs& args) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1);
  WUNENG_ASSERT(args.packed.shape() == (Shape{T, C + kScaleBytes}));
  launch(stream, "unpack_scaled", unpack_scaled_kernel, dim3(T), dim3(kBlock), 0, args.packed.data<int8_t>(),
         C, args.x.f32());
}

}  // namespace wuneng::kernels::cuda

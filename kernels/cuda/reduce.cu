#include "kernels/reduce.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr unsigned kMostParts = 1024;

// partial[block] = the block's sum; a block takes every gridDim.x-th stretch of kBlock elements.
__global__ void __launch_bounds__(kBlock) squares_kernel(int64_t n, const float* x, double* partial) {
  __shared__ double of_warp[kBlock / kWarp];
  double sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x; i < n; i += int64_t{gridDim.x} * kBlock)
    sum += double(x[i]) * double(x[i]);
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kBlock / kWarp; ++w) sum += of_warp[w];
  partial[blockIdx.x] = sum;
}

__global__ void add_in_order_kernel(unsigned parts, const double* partial, double* sum) {
  double total = *sum;
  for (unsigned p = 0; p < parts; ++p) total += partial[p];
  *sum = total;
}

}  // namespace

void sum_of_squares(const Stream& stream, const SumOfSquaresArgs& args) {
  const int64_t n = args.x.numel();
  if (n == 0) return;
  const unsigned parts = std::min(kMostParts, blocks_for(n, kBlock));
  const Tensor partial = Tensor::empty({parts}, DType::f64, args.x.device());
  launch(stream, "sum_of_squares", squares_kernel, dim3(parts), dim3(kBlock), 0, n, args.x.f32(),
         partial.data<double>());
  launch(stream, "sum_of_squares", add_in_order_kernel, dim3(1), dim3(1), 0, parts, partial.data<double>(),
         args.sum.data<double>());
}

}  // namespace wuneng::kernels::cuda

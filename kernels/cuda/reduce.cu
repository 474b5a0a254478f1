#include "kernels/cuda/common/multi_tensor.h"
#include "kernels/reduce.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kFour = 4;  // elements in 16 bytes

struct TensorPointer {
  const float* x;
  int64_t n;
};

// The sum over all threads of the block, returned to thread 0; the others get 0.
__device__ double block_sum(double sum) {
  __shared__ double of_warp[kBlock / kWarp];
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return 0;
  for (int w = 1; w < kBlock / kWarp; ++w) sum += of_warp[w];
  return sum;
}

// One thread block for each row of block_table.
__global__ void __launch_bounds__(kBlock)
    squares_kernel(const TensorPointer* tensors, const int64_t* blocks, double* partial) {
  const TensorPointer p = tensors[blocks[2 * blockIdx.x]];
  const int64_t begin = blocks[2 * blockIdx.x + 1], end = min(p.n, begin + kBlockElements);
  double sum = 0;
  const int64_t last = is_aligned<kFour>(p.x) ? begin + (end - begin) / kFour * kFour : begin;
  for (int64_t i = begin + threadIdx.x * kFour; i < last; i += kBlock * kFour)
    for (const float x : load<kFour>(p.x + i).x) sum += double(x) * double(x);
  for (int64_t i = last + threadIdx.x; i < end; i += kBlock) sum += double(p.x[i]) * double(p.x[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// A single thread block.
__global__ void __launch_bounds__(kBlock)
    add_partial_kernel(int64_t blocks, const double* partial, double* total) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kBlock) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total += sum;
}

}  // namespace

void sum_of_squares(const Stream& stream, const SumOfSquaresArgs& args) {
  std::vector<TensorPointer> tensors;
  std::vector<int64_t> sizes;
  for (const Tensor& x : args.x) {
    tensors.push_back({x.f32(), x.numel()});
    sizes.push_back(x.numel());
  }
  const Device device = stream.device;
  const Tensor blocks = block_table(sizes, device), table = upload_structs(tensors, device);
  const int64_t count = blocks.numel() / 2;
  if (count == 0) return;
  const Tensor partial = Tensor::empty({count}, DType::f64, device);
  launch(stream, "sum_of_squares", squares_kernel, dim3(count), dim3(kBlock), 0,
         static_cast<const TensorPointer*>(table.raw()), blocks.data<int64_t>(), partial.data<double>());
  launch(stream, "sum_of_squares", add_partial_kernel, dim3(1), dim3(kBlock), 0, count,
         partial.data<double>(), args.sum.data<double>());
}

}  // namespace wuneng::kernels::cuda

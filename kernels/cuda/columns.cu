#include "kernels/columns.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using namespace wuneng::cuda;

namespace {

// A row a block, or a part of one.
template <class To>
__global__ void __launch_bounds__(kBlock) copy_kernel(const float* x, int64_t V, To* y, int64_t C) {
  const int64_t t = blockIdx.x;
  for (int64_t c = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; c < C;
       c += int64_t{gridDim.y} * blockDim.x)
    assign(y[t * C + c], x[t * V + c]);
}

template <class To>
void copy(const Stream& stream, const CopyColumnsArgs& args) {
  const int64_t V = args.x.dim(1), T = args.y.dim(0), C = args.y.dim(1);
  launch(stream, "copy_columns", copy_kernel<To>, dim3(T, std::min(blocks_for(C, 4 * kBlock), 64u)),
         dim3(kBlock), 0, args.x.f32() + args.begin, V, args.y.data<To>(), C);
}

}  // namespace

void copy_columns(const Stream& stream, const CopyColumnsArgs& args) {
  args.y.dtype() == DType::f32 ? copy<float>(stream, args) : copy<bf16>(stream, args);
}

}  // namespace wuneng::kernels::cuda

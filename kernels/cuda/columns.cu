#include "kernels/columns.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using wuneng::cuda::assign;
using wuneng::cuda::for_each;

namespace {

template <class To>
void copy(const Stream& stream, const CopyColumnsArgs& args) {
  const int64_t V = args.x.dim(1), C = args.y.dim(1);
  const float* x = args.x.f32() + args.begin;
  To* y = args.y.data<To>();
  for_each(stream, "copy_columns", args.y.numel(),
           [=] __device__(int64_t i) { assign(y[i], x[i / C * V + i % C]); });
}

}  // namespace

void copy_columns(const Stream& stream, const CopyColumnsArgs& args) {
  args.y.dtype() == DType::f32 ? copy<float>(stream, args) : copy<bf16>(stream, args);
}

}  // namespace wuneng::kernels::cuda

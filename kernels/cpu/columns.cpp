#include "kernels/columns.h"

#include <algorithm>

#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

template <class To>
void copy(const CopyColumnsArgs& args) {
  const int64_t V = args.x.dim(1), C = args.y.dim(1);
  parallel_for(args.y.dim(0), std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(C, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t) {
                   const float* x = args.x.f32() + t * V + args.begin;
                   To* y = args.y.data<To>() + t * C;
                   for (int64_t c = 0; c < C; ++c) y[c] = To(x[c]);
                 }
               });
}

}  // namespace

void copy_columns(const Stream&, const CopyColumnsArgs& args) {
  args.y.dtype() == DType::f32 ? copy<float>(args) : copy<bf16>(args);
}

}  // namespace wuneng::kernels::cpu

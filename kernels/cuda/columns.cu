#include <numeric>

#include "kernels/columns.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {

using namespace wuneng::cuda;

void copy_columns(const Stream& stream, const CopyColumnsArgs& args) {
  const int64_t V = args.x.dim(1), T = args.y.dim(0), C = args.y.dim(1), begin = args.begin;
  const Others x(args.x);
  const Elements y(args.y);
  for_each_in_rows(stream, "copy_columns", Width({args.y}, {args.x}), T, C, std::gcd(std::gcd(V, C), begin),
                   [=] __device__(int64_t t, auto c) { y.set(t * C + c, x[t * V + begin + c]); });
}

}  // namespace wuneng::kernels::cuda

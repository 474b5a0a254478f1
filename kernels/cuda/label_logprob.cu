#include "kernels/label_logprob.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {

void label_logprob(const Stream& stream, const LabelLogprobArgs& args) {
  const int64_t C = args.sums.dim(1);
  const float* largest = args.maxima.f32() + 2 * C;
  const double *sum = args.sums.data<double>() + 3 * C, *label = sum + C;
  double* out = args.out.data<double>();
  wuneng::cuda::for_each(stream, "label_logprob", C,
                         [=] __device__(int64_t i) { out[i] = label[i] - largest[i] - log(sum[i]); });
}

}  // namespace wuneng::kernels::cuda

#include "kernels/label_logprob.h"

#include <cmath>

namespace wuneng::kernels::cpu {

void label_logprob(const Stream&, const LabelLogprobArgs& args) {
  const int64_t C = args.sums.dim(1);
  const float* largest = args.maxima.f32() + 2 * C;
  const double *sum = args.sums.data<double>() + 3 * C, *label = sum + C;
  double* out = args.out.data<double>();
  for (int64_t i = 0; i < C; ++i) out[i] = label[i] - largest[i] - std::log(sum[i]);
}

}  // namespace wuneng::kernels::cpu

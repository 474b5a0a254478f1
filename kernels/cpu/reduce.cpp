#include "kernels/reduce.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "runtime/threads.h"

namespace wuneng::kernels::cpu {

// Blocks of fixed size, added in order: the sum does not depend on the number of threads.
void sum_of_squares(const Stream&, const SumOfSquaresArgs& args) {
  constexpr int64_t kBlock = 1 << 14;
  for (const Tensor& tensor : args.x) {
    const float* x = tensor.f32();
    const int64_t n = tensor.numel();
    std::vector<double> sums((n + kBlock - 1) / kBlock);
    parallel_for(static_cast<int64_t>(sums.size()), 2, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        double sum = 0;
        const int64_t to = std::min(n, (b + 1) * kBlock);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = b * kBlock; i < to; ++i) sum += double(x[i]) * double(x[i]);
        sums[b] = sum;
      }
    });
    args.sum.data<double>()[0] = std::accumulate(sums.begin(), sums.end(), args.sum.data<double>()[0]);
  }
}

}  // namespace wuneng::kernels::cpu

// Sums over all elements of tensors.
#pragma once
#include <vector>

#include "kernels/backend.h"

namespace wuneng::kernels {

// sum [1] f64 += the sum of x^2 over all tensors (f32, any shape), for the gradient norm. The order of
// summation is fixed.
struct SumOfSquaresArgs {
  std::vector<Tensor> x;
  Tensor sum;
};
WUNENG_KERNEL(sum_of_squares, SumOfSquaresArgs);

}  // namespace wuneng::kernels

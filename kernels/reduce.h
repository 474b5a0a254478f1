// Sums over all elements of a tensor.
#pragma once
#include "kernels/twin.h"

namespace wuneng::kernels {

// sum [1] f64 += the sum of x^2, for x of any shape, f32: a part of the gradient's norm. The order of
// summation is fixed.
struct SumOfSquaresArgs {
  Tensor x, sum;
};
WUNENG_KERNEL(sum_of_squares, SumOfSquaresArgs);

}  // namespace wuneng::kernels

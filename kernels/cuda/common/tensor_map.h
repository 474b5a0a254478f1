// What the tensor memory accelerator is told of a tensor of rows.
#pragma once
#include <cuda.h>

#include "runtime/tensor.h"

namespace wuneng::kernels::cuda {

// x [T, heads, D] bf16, D a multiple of 64, at a multiple of 16 bytes: boxes of `rows` rows of one head,
// found at {0, row, 0, head}, which copy_box leaves as SwizzledTile has them. Rows outside of x are zeros.
CUtensorMap map_of_rows(const Tensor& x, int rows);

// x [rows, ...] f32, rows of a multiple of 4 numbers: boxes of `count` numbers (a multiple of 4) of a row, at
// {first, row, 0, 0}, one after another.
CUtensorMap map_of_numbers(const Tensor& x, int count);

}  // namespace wuneng::kernels::cuda

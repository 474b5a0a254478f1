// Tensor maps (CUtensorMap) for copies by the tensor memory accelerator (TMA).
#pragma once
#include <cuda.h>

#include "runtime/tensor.h"

namespace wuneng::kernels::cuda {

// x [T, heads, D] bf16, D a multiple of 64, 16-byte aligned: boxes of `rows` rows of one head, at coordinates
// {0, row, 0, head}, which tma_load stores in SwizzledTile's layout. Rows outside x are read as zeros.
CUtensorMap map_of_rows(const Tensor& x, int rows);

// x [rows, ...] f32, rows of a multiple of 4 elements: boxes of `count` elements (a multiple of 4) of a row,
// at coordinates {first, row, 0, 0}, stored contiguously.
CUtensorMap map_of_numbers(const Tensor& x, int count);

}  // namespace wuneng::kernels::cuda

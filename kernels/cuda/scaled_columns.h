// What follows a product whose matrix has a scale for each row.
#pragma once
#include "runtime/tensor.h"

namespace wuneng::kernels::cuda {

// y = scale column_scale x + base + bias.
struct ScaledColumns {
  Tensor x;  // [M, N] f32
  float scale = 1;
  Tensor column_scale;  // [N] f32; undefined: 1
  Tensor base;          // [M, N], of y's type, may be y; undefined: none
  Tensor bias;          // [N] f32 or bf16; undefined: none
  Tensor y;             // [M, N] f32 or bf16
};
void scaled_columns(const Stream& stream, const ScaledColumns& args);

}  // namespace wuneng::kernels::cuda

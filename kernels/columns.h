// A part of every row, for whom other ranks send parts of their columns to.
#pragma once
#include "kernels/twin.h"

namespace wuneng::kernels {

// y = x[:, begin : begin + C], rounded where y is bf16.
struct CopyColumnsArgs {
  Tensor x;  // [T, V] f32
  int64_t begin;
  Tensor y;  // [T, C] f32 or bf16
};
WUNENG_KERNEL(copy_columns, CopyColumnsArgs);

}  // namespace wuneng::kernels

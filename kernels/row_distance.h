// The distance of two activations row by row, and its gradient: attention alignment (docs/model.md, "Losses",
// stage 1).
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

// Over rows t with a label: distance_t = |student_t - teacher_t|_2 / sqrt(d).
//   total [1] f64 += the sum of the distances
//   tokens [1] f64 += the number of these rows
//   gradient [T, d] of scale times that sum: scale (student_t - teacher_t) / (|student_t - teacher_t|
//   sqrt(d)); 0 in rows without a label, and where both are equal.
struct RowDistanceArgs {
  Tensor student;   // [T, d] an activation
  Tensor teacher;   // [T, d] f32 or bf16, whatever the activations are
  Tensor labels;    // [T] i32, negative: none
  float scale = 1;  // of the gradient
  Tensor total;
  Tensor tokens;    // undefined: not counted
  Tensor gradient;  // of the student's type; undefined: not computed
};
WUNENG_KERNEL(row_distance, RowDistanceArgs);

}  // namespace wuneng::kernels

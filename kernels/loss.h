// Word-level losses over vocabulary shards, in pieces between which ranks meet (model.md, "Losses").
//
// C tokens (a chunk), V local vocabulary columns of the student. Per token and rank: the largest logits, then
// sums of exponentials, then the gradient. Between the pieces the caller reduces maxima and sums over the
// ranks. All sums are added to, so that several slices of a teacher's logits work like one.
#pragma once
#include "kernels/twin.h"

namespace wuneng::kernels {

// A slice of the teacher's logits for the same tokens, and where its columns are among the student's local
// ones. row: the first row of `logits` that belongs to the chunk.
struct TeacherColumns {
  Tensor logits;  // [>= row + C, columns] f32 or bf16
  int64_t row = 0;
  int64_t first = 0;  // the student's local column of the slice's column 0
};

// maximum [C] = max(maximum, x / temperature over the columns [first, first + count) of row + i).
struct LogitMaxArgs {
  Tensor logits;  // [>= row + C, columns] f32 or bf16
  int64_t row = 0, first = 0, count = 0;
  float inverse_temperature = 1;
  Tensor maximum;  // [C] f32
};
WUNENG_KERNEL(logit_max, LogitMaxArgs);

// With s = student / t - max_s, u = teacher / t - max_t over a slice's columns: sums [3, C] f64 += { sum e^s,
// sum e^u, sum e^u (u - s) }.
struct KlSumsArgs {
  Tensor student;  // [C, V] f32
  TeacherColumns teacher;
  float inverse_temperature;
  Tensor student_max, teacher_max;  // [C] over all ranks
  Tensor sums;                      // [3, C] f64
};
WUNENG_KERNEL(kl_sums, KlSumsArgs);

// sums [2, C] f64 += { sum e^(x - max), x[label] - max where this rank holds the label's column }.
struct CrossEntropySumsArgs {
  Tensor logits;   // [C, V] f32
  Tensor labels;   // [C] i32, negative: none
  int64_t begin;   // vocabulary index of local column 0
  Tensor maximum;  // [C]
  Tensor sums;     // [2, C] f64
};
WUNENG_KERNEL(cross_entropy_sums, CrossEntropySumsArgs);

// gradient [C, V] += scale[i] (softmax(student / t) - softmax(teacher / t)) over a slice's columns.
struct KlGradientArgs {
  Tensor student;
  TeacherColumns teacher;
  float inverse_temperature;
  Tensor student_max, teacher_max, sums;  // reduced over all ranks
  Tensor scale;                           // [C] f32
  Tensor gradient;                        // [C, V] f32, or bf16 on a GPU
};
WUNENG_KERNEL(kl_gradient, KlGradientArgs);

// gradient [C, V] = scale[i] (softmax(logits) - one_hot(label)); rows with scale 0 are zero. gradient may be
// logits itself. f32, or bf16 on a GPU.
struct CrossEntropyGradientArgs {
  Tensor logits, labels;
  int64_t begin;
  Tensor maximum, sums, scale;
  Tensor gradient;
};
WUNENG_KERNEL(cross_entropy_gradient, CrossEntropyGradientArgs);

}  // namespace wuneng::kernels

// One rank of a run without its devices: a step is run dry (Device::dry), with the classes that train, so
// that what its tensors would hold and what its kernels would compute is counted, not estimated.
#pragma once
#include "launch/train/recipe.h"
#include "runtime/dry_run.h"

namespace wuneng {

// Bytes of tensors on the rank's device.
struct RankUse {
  int64_t weights = 0;     // of the model
  int64_t gradients = 0;   // and the buckets that weights and gradients lie in
  int64_t optimizer = 0;   // moments and masters
  int64_t teacher = 0;     // received signals, or a colocated teacher's weights
  int64_t peak = 0;        // of all, in a step: the rest is activations, what kernels and sums hold, and the
                           // cache of on-policy continuations
  dry_run::Counts counts;  // of one step
};

// A rank of the student's stage, of the first replica.
RankUse dry_student_rank(const TrainRecipe& recipe, int stage, int tp_rank);
// A rank of the teacher, where it has ranks of its own; in one micro-batch's forward.
RankUse dry_teacher_rank(const TrainRecipe& recipe, int stage, int tp_rank);

}  // namespace wuneng

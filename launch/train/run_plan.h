// The run plan: the passes of a run, known to student and teacher before it begins. A pass takes
// `accumulation` micro-batches through each replica's pipeline: a training step, or a part of an evaluation.
#pragma once
#include <cstdint>
#include <vector>

namespace wuneng {

struct Pass {
  bool trains;
  int64_t step;  // the training step, or the one before which is evaluated
  int64_t part;  // of the evaluation
  bool last_part = true;
};

// Evaluations of `parts` passes stand before every step that `eval_every` divides, and after the last step.
std::vector<Pass> plan_passes(int64_t steps, int64_t eval_every, int64_t parts);
// The pass at which a run continues that has `steps_done` training steps behind it.
int64_t first_pass(const std::vector<Pass>& passes, int64_t steps_done);

}  // namespace wuneng

// Rounds: what a run does, one after another, known to student and teacher alike before it begins. A round
// takes `accumulation` micro-batches through each replica, for a training step or for a piece of an
// evaluation.
#pragma once
#include <cstdint>
#include <vector>

namespace wuneng {

struct Round {
  bool trains;
  int64_t step;  // the training step, or the one before which is evaluated
  int64_t part;  // which piece of the evaluation
  bool last_part = true;
};

// Rounds of a whole run. Evaluations of `parts` rounds stand before every step that `eval_every` divides, and
// after the last step.
std::vector<Round> plan_rounds(int64_t steps, int64_t eval_every, int64_t parts);
// Where in it a run goes on that has `done` training steps behind it.
int64_t first_round(const std::vector<Round>& rounds, int64_t done);

}  // namespace wuneng

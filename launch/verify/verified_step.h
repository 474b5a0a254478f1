// One training step of a recipe, with all tensors that it names: forward, backward, gradients of parameters.
// The student's parameters are the recipe's, each moved by a normal number of 0.01, so that none of zero
// hides what it is multiplied with. No update, and nothing is written.
#pragma once
#include "launch/train/recipe.h"
#include "launch/verify/observations.h"

namespace wuneng {

inline constexpr std::string_view kGradientOf = "gradient of ";  // before a parameter's name

// Collective over `ranks`, which are those of the recipe's layouts; the step is the run's first. Returns what
// this rank computed, in the order in which it did:
//   "student, micro-batch 0 forward: model.layers.1 residual after the mixer"   [T, d]
//   "student, micro-batch 0 backward: ..."                                      its gradient
//   "teacher, micro-batch 0 forward: ..."
//   "sum of the objective: ce"                                                  [1]
//   "gradient of model.layers.1.mlp.down_proj.weight"                           what this rank updates of it
// noise, seed: see recorder().
Observations verified_step(const TrainRecipe& recipe, const Comm& ranks, Device device, double noise = 0,
                           uint64_t seed = 0);

}  // namespace wuneng

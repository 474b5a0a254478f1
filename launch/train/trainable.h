// Which parameters a run trains.
#pragma once
#include "launch/train/recipe.h"
#include "parallel/parameter.h"
#include "runtime/comm.h"

namespace wuneng {

// What the objective has a gradient for, what the recipe trains, and not what it freezes.
void choose_trainable(const TrainRecipe& recipe, const Parameters& parameters);
// Collective over `ranks`, the student's: throws where a pattern of the recipe matches no parameter of any
// rank, or none is trained.
void check_trainable(const TrainRecipe& recipe, const Parameters& parameters, const Comm& ranks);

}  // namespace wuneng

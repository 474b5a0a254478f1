// What settings of a recipe must be together.
#pragma once
#include "launch/train/recipe.h"

namespace wuneng {

// Throws, with the keys, where settings that are right alone cannot make a run: more pipeline stages than
// layers, sizes whose product is beyond reason, weights beyond this machine's memory and, on rank 0, an
// output that cannot be written and a checkpoint to resume from that is none. A plan needs neither memory nor
// output.
void check_recipe(const TrainRecipe& recipe, TrainRecipe::Use use);

}  // namespace wuneng

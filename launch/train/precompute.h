// `wuneng precompute`: the reference's log-probabilities of all labels of a recipe's data, into a file
// (launch/train/logprob_file.h).
#pragma once
#include "launch/train/training_data.h"

namespace wuneng {

// Throws unless the recipe asks for a file and for this many ranks.
void check_precompute(const TrainRecipe& recipe, int ranks);
// Collective over the world, which is teacher.layout's ranks.
void precompute(const TrainRecipe& recipe, const TrainingData& data);

}  // namespace wuneng

// `wuneng train`: the run, from the recipe to the last checkpoint.
#pragma once
#include "launch/train/recipe.h"
#include "launch/train/training_data.h"

namespace wuneng {

// Runs on every rank of the world. Returns when the run is done on this rank: whether a signal has stopped it
// before its planned end (signals.h), equal on all ranks; throws on errors.
bool train(const TrainRecipe& recipe, TrainingData& data);

}  // namespace wuneng

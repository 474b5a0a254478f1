// `wuneng train`: the training run, from the recipe to the last checkpoint.
#pragma once
#include "launch/train/recipe.h"
#include "launch/train/training_data.h"

namespace wuneng {

// Runs on every rank of the world. Returns when the run is done on this rank; throws on errors.
void train(const TrainRecipe& recipe, TrainingData& data);

// The two roles that train() splits the world into. Each returns the seconds that its rank waited for data.
double train_student(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                     const Comm& stream, int64_t done, Device device);
double serve_teacher(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                     const Comm& stream, int64_t done, Device device);

// How both sides of the stream see the run.
StreamOptions stream_options(const TrainRecipe& recipe, const TrainingData& data, int64_t done,
                             Device device);

}  // namespace wuneng

// The positions that the models of a run are made for, and a student's context that a recipe extends.
#pragma once
#include "launch/train/recipe.h"

namespace wuneng {

// max_position_embeddings of a model's config.json; with YaRN the scaled length where that is more. 0: it has
// none.
int64_t positions_of(const ModelConfig& config);

// Reads student.rope_theta, student.yarn_factor and student.max_position_embeddings, which a student that
// starts from a directory may change; a new one has its rope_theta by its shape. Adds a note where the rotary
// embedding becomes another. Throws where data.seq_len is more than a model's max_position_embeddings, as far
// as its config.json has that, and for YaRN of a student whose length before is not known.
void read_context_length(Recipe& recipe, TrainRecipe& train);

}  // namespace wuneng

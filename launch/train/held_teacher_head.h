// The rows of the teacher's output matrix that a student's rank multiplies with (objectives that ask for it:
// Objective::needs_teacher_head).
#pragma once
#include <optional>

#include "launch/train/recipe.h"
#include "model/model_chunks.h"

namespace wuneng {

// Those of the vocabulary that the rank's part of the student's output matrix has and the teacher too: a
// colocated teacher's where it holds them, else read from its directory; in a dry run without values. None
// where the rank has no part.
struct HeldTeacherHead {
  std::optional<Parameter> rows;
  int64_t bytes = 0;  // of rows that are not the colocated teacher's
};
HeldTeacherHead teacher_head(const TrainRecipe& recipe, const ModelChunks& model, const Parameter* colocated);

}  // namespace wuneng

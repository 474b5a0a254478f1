// Where a student's rank gets its teacher's signals: a stream, a file, or a teacher in its own process.
#pragma once
#include <memory>

#include "launch/train/recipe.h"
#include "launch/train/training_data.h"
#include "parallel/teacher_signal.h"

namespace wuneng {

struct OpenTeacher {
  std::unique_ptr<TeacherSource> source;      // null: the recipe has no teacher
  const Parameter* colocated_head = nullptr;  // of a colocated teacher on the last stage
};
// Collective over the student's ranks, with a streaming teacher over all of `stream`'s. batches: the
// micro-batches of the pass under way, which outlive the result. steps_done: where the run starts. observers:
// of a colocated teacher's forward.
OpenTeacher open_teacher(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                         const Comm& stream, int64_t steps_done, const std::vector<MicroBatch>& batches,
                         Device device, const Observers& observers = {});

}  // namespace wuneng

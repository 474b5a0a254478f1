// The teacher's ranks: forward alone over the student's micro-batches, signals into the teacher stream.
#pragma once
#include "launch/train/training_data.h"
#include "model/teacher_signals/signal_source.h"
#include "parallel/mesh.h"
#include "parallel/stream.h"

namespace wuneng {

// The signals of a run whose teacher streams, and how both sides of the stream see it.
std::vector<SourcedSignal> streamed_signals(const TrainRecipe& recipe, const Mesh& mesh);
StreamOptions stream_options(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                             int64_t steps_done, Device device);

// Serves all passes of the run that follow `steps_done` training steps. Returns the seconds that this rank
// waited for micro-batches.
double serve_teacher(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                     const Comm& stream, int64_t steps_done, Device device);

}  // namespace wuneng

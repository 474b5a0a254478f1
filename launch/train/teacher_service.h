// The teacher's ranks: forward alone over the student's micro-batches, signals into the teacher stream.
#pragma once
#include "launch/train/step_trace.h"
#include "launch/train/stop.h"
#include "launch/train/training_data.h"
#include "model/teacher_signals/signal_source.h"
#include "parallel/mesh.h"
#include "parallel/stream.h"

namespace wuneng {

// The signals of a run whose teacher streams, and how both sides of the stream see it. Throws where a signal
// is for a stage of the student that has no loss: nobody would use it there.
std::vector<SourcedSignal> streamed_signals(const TrainRecipe& recipe);
StreamOptions stream_options(const TrainRecipe& recipe, const TrainingData& data, int64_t steps_done,
                             Device device);
// How the ranks of a run agree to stop early; the same lead on both sides.
StopAgreement stop_agreement(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                             int64_t steps_done);

// Serves all passes of the run that follow `steps_done` training steps, or up to where the student stops.
RunEnd serve_teacher(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                     const Comm& stream, int64_t steps_done, Device device, StepTrace& trace,
                     const Observers& observers = {});

}  // namespace wuneng

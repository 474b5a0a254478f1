// StudentPass: all micro-batches of a pass through this rank's stage of the student, forward, loss and, in
// training, backward.
#pragma once
#include <utility>

#include "launch/train/recipe.h"
#include "model/model_chunks.h"
#include "parallel/gradients.h"
#include "parallel/mesh.h"
#include "parallel/pipeline.h"
#include "parallel/teacher_signal.h"
#include "runtime/host_copy.h"

namespace wuneng {

class StudentPass {
 public:
  // batches: those of the pass that run() is called for. teacher: null where the run has none. teacher_head:
  // this rank's rows of the teacher's output matrix, where the objective multiplies with them. All outlive
  // this.
  StudentPass(const TrainRecipe& recipe, const Mesh& mesh, ModelChunks& model, GradientSums& gradients,
              const std::vector<MicroBatch>& batches, TeacherSource* teacher, const Parameter* teacher_head)
      : recipe_(recipe),
        mesh_(mesh),
        objective_(*recipe.objective),
        model_(model),
        gradients_(gradients),
        batches_(batches),
        teacher_(teacher),
        teacher_head_(teacher_head) {}

  // From now on, what tapes name of each micro-batch.
  void observe(Observers observers) { observers_ = std::move(observers); }
  // Collective over the student's ranks. loss_tokens: what the loss is a mean over. Returns the objective's
  // sums over micro-batches, replicas and stages, known on the logging rank.
  HostCopy run(int64_t pass, bool trains, double loss_tokens);
  // Seconds that this rank has waited for its teacher since the last call.
  double take_teacher_wait() { return std::exchange(teacher_wait_, 0); }

 private:
  // One micro-batch through a model chunk of this stage.
  StageOutputs forward(Tape& tape, int64_t pass, int micro_batch, int chunk, const StageState& input,
                       const Stage::Completed& completed, double loss_tokens, const Tensor& sums);

  const TrainRecipe& recipe_;
  const Mesh& mesh_;
  const Objective& objective_;
  ModelChunks& model_;
  GradientSums& gradients_;
  const std::vector<MicroBatch>& batches_;
  TeacherSource* const teacher_;
  const Parameter* const teacher_head_;
  Observers observers_;
  double teacher_wait_ = 0;
};

}  // namespace wuneng

// A teacher in the student's own processes (teacher.mode = "colocated"): each student stage runs the
// teacher's layers of that stage, sharded over the student's tensor-parallel ranks, and passes the teacher's
// hidden state to the next stage.
#pragma once
#include <deque>

#include "launch/train/recipe.h"
#include "model/teacher_signals/signal_source.h"
#include "parallel/mesh.h"

namespace wuneng {

class ColocatedTeacher : public TeacherSource {
 public:
  // Collective over the student's ranks. batches: the micro-batches of the pass under way, which outlive
  // this.
  ColocatedTeacher(const TrainRecipe& recipe, const Mesh& mesh, const std::vector<MicroBatch>& batches,
                   Device device);

  void observe(Observers observers) { observers_ = std::move(observers); }  // as StudentPass
  // This rank's rows of the teacher's output matrix; null but on the last stage.
  const Parameter* head() const { return model_.head(); }
  // Waits for the stage before this one to take the same micro-batch, for no other stage.
  const SignalParts& take(int64_t pass, int micro_batch) override;
  void release() override { parts_.clear(); }
  void finish() override;

 private:
  ColocatedTeacher(const TrainRecipe& recipe, const Mesh& mesh, const std::vector<MicroBatch>& batches,
                   Device device, const std::vector<Range>& stages);
  StageState receive(int64_t rows);
  void send(const StageState& state);

  const std::vector<MicroBatch>& batches_;
  Comm pp_;  // of its own: the student's stages have other messages under way
  Decoder model_;
  std::vector<SourcedSignal> signals_;  // of this stage
  int tp_rank_, dp_rank_, dp_;
  Observers observers_;
  SignalParts parts_;
  std::deque<Request> sends_;
};

}  // namespace wuneng

// A teacher in the student's own processes (teacher.mode = "in_process"): each student stage that needs
// signals holds the whole teacher, sharded over the student's tensor-parallel ranks.
#pragma once
#include "launch/train/recipe.h"
#include "model/teacher_signals/signal_source.h"
#include "parallel/mesh.h"

namespace wuneng {

class ColocatedTeacher : public TeacherSource {
 public:
  // batches: the micro-batches of the pass under way, which outlive this.
  ColocatedTeacher(const TrainRecipe& recipe, const Mesh& mesh, const std::vector<MicroBatch>& batches,
                   Device device);

  const SignalParts& take(int64_t pass, int micro_batch) override;
  void release() override { parts_.clear(); }

 private:
  const std::vector<MicroBatch>& batches_;
  Decoder model_;
  std::vector<SourcedSignal> signals_;
  int tp_rank_;
  SignalParts parts_;
};

}  // namespace wuneng

// The reference's log-probabilities from a file (teacher.mode = "precomputed"), in place of a teacher.
#pragma once
#include "launch/train/logprob_file.h"
#include "parallel/mesh.h"
#include "parallel/teacher_signal.h"

namespace wuneng {

class PrecomputedTeacher : public TeacherSource {
 public:
  // batches: the micro-batches of the pass under way, which outlive this.
  PrecomputedTeacher(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                     const std::vector<MicroBatch>& batches, Device device);

  // "label_logprob" [T, 1] on the last stage, nothing on others.
  const SignalParts& take(int64_t pass, int micro_batch) override;
  void release() override { parts_.clear(); }

 private:
  const std::vector<MicroBatch>& batches_;
  std::string path_;
  LogprobTensors values_;
  bool wanted_;  // on this stage
  Device device_;
  SignalParts parts_;
};

}  // namespace wuneng

// Trainer: the student's ranks. A training step reads top to bottom in Trainer::train_step; what a
// micro-batch goes through on a stage, in StudentPass::forward.
#pragma once
#include "launch/train/on_policy.h"
#include "launch/train/reporter.h"
#include "launch/train/step_trace.h"
#include "launch/train/stop.h"
#include "launch/train/student_pass.h"
#include "launch/train/training_state.h"
#include "parallel/teacher_signal.h"
#include "runtime/host_copy.h"

namespace wuneng {

class Trainer {
 public:
  // Collective over the student's ranks. `stream` is the teacher stream's communicator, over the world.
  Trainer(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data, const Comm& stream,
          const RunDirectory& directory, const RunStart& start, Device device, StepTrace& trace);

  // All passes that are left, or up to where a signal stops them, and the last checkpoint.
  RunEnd run();

 private:
  // What the passes of an evaluation add up to.
  struct Evaluation {
    std::vector<double> sums;
    double count = 0;  // of what the loss is a mean over
  };

  // Each ends with meet(pass + 1).
  void train_step(int64_t pass);
  void skip_update(double norm);
  void evaluate(int64_t pass);
  struct Waited {
    double for_data, for_teacher;  // seconds
  };
  // Collective over the student, before every pass and after the last: agrees whether to stop there. Returns
  // what the ranks that waited longest have waited since the last meeting.
  Waited meet(int64_t next_pass);
  void report_on_policy();
  void save();
  // Collective over the student, after a pass: see run.time_products.
  void time_products(int64_t pass);
  void end_early(int64_t pass);
  // Loads this rank's rows of the teacher's output matrix, or takes them from a colocated teacher's.
  void hold_teacher_head(const Parameter* colocated);
  bool is_logging_rank() const;
  bool adds_to_cache() const { return !recipe_.cache.empty() && !recipe_.cached; }
  double loss_count() const;

  const TrainRecipe& recipe_;
  const Mesh& mesh_;
  const TrainingData& data_;
  const Objective& objective_;
  TrainingState state_;
  PassReader reader_;
  std::vector<MicroBatch> batches_;         // of the pass under way
  std::unique_ptr<TeacherSource> teacher_;  // on stages that need signals
  std::optional<Parameter> teacher_head_;  // this rank's rows of it, where the objective multiplies with them
  std::optional<StudentPass> student_pass_;
  std::optional<OnPolicyBatches> on_policy_;
  Reporter reporter_;
  StopAgreement stop_;
  StepTrace& trace_;
  int stop_signal_ = 0;  // agreed upon; 0: the run goes on
  Evaluation evaluation_;
  int64_t skipped_in_a_row_ = 0;
  int64_t saved_;            // the step of the newest checkpoint
  int64_t optimizer_bytes_;  // of the rank that holds most of the optimizer's state
  bool timed_[2] = {};       // are the products of evaluations, of training steps timed?
  double data_wait_ = 0;     // seconds that reader_ had waited at the last meeting
};

}  // namespace wuneng

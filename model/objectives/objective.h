// Objective: what a run minimises. One file here and a line in registry.cpp make a new one
// (docs/extending.md).
//
// An objective says which teacher signals it needs, forms its loss on the stages that have one, and adds to
// named sums, from which its metrics are made. A loss may stand on any stage of the student, or on all.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/decoder.h"
#include "parallel/teacher_signal.h"

namespace wuneng {

// One micro-batch on one stage of the student.
struct StageInputs {
  Decoder& student;
  const MicroBatch& batch;
  const StageState& state;                            // what the stage before has passed on
  const Stage::Completed& completed;                  // see Stage::forward
  const std::function<const SignalParts&()> teacher;  // waits for the signals of this micro-batch
  bool has_loss;                                      // on this stage
  double loss_tokens;                       // Objective::count of the whole step: what a loss is a mean over
  const Parameter* teacher_head = nullptr;  // this rank's rows of it, where Objective::needs_teacher_head
};
struct StageOutputs {
  StageState state;  // to pass on
  Var loss;          // [1] f64; undefined on a stage without a loss
};

struct Metric {
  std::string name;
  double value;
  bool in_progress_line = true;  // or in metrics.jsonl alone
};

// From the keys of [loss] in a recipe.
struct LossOptions {
  float temperature = 1;
  float ce_weight = 0;         // loss = (1 - ce_weight) D temperature^2 + ce_weight CE, with a divergence D
  double beta = 0;             // of D: kernels/loss.h, Divergence; of rewards: preference_loss.h
  int64_t chunk_tokens = 0;    // tokens whose logits are held at a time; 0: what suits the device
  bool bf16_logits = false;    // of a training step's student, on a GPU with bf16 activations
  double label_smoothing = 0;  // of preference_loss.h
  bool length_normalised = false;  // mean log-probabilities of answers in place of sums
  int64_t student_layers = 0;
  std::string teacher_signal = "logits";  // that a divergence over the vocabulary is formed from
  int64_t shared_vocabulary = 0;          // columns that both vocabularies share
};

// What the loss of a step is a mean over: rows with a label, or preference pairs, which the data must then
// be.
enum class MeanOver { tokens, pairs };

class Objective {
 public:
  virtual ~Objective() = default;
  // By name (model/teacher_signals/). Empty: the run has no teacher.
  virtual std::vector<std::string> teacher_signals() const = 0;
  // Do the student's ranks that have a loss multiply with rows of the teacher's output matrix?
  virtual bool needs_teacher_head() const { return false; }
  // Name patterns with * of the parameters that the loss has a gradient for; the others stay as they are.
  virtual std::vector<std::string> trains() const { return {"*"}; }
  // Is there a loss on this pipeline stage of the student?
  virtual bool has_loss(int stage, int stages) const { return stage == stages - 1; }
  virtual MeanOver mean_over() const { return MeanOver::tokens; }
  // How many of them a micro-batch has.
  double count(const MicroBatch& batch) const;
  // The names of the sums over a step's or an evaluation's micro-batches, replicas and stages, in the order
  // of `sums` below.
  virtual std::vector<std::string> sums() const = 0;
  // Does a stage's hidden state go to the next stage? If not, stages do not wait for each other, but where
  // layers carry something in addition.
  virtual bool passes_hidden_state() const { return true; }
  // One micro-batch forward through a stage. The loss, on a stage that has one, is the micro-batch's share of
  // the step's loss, whose gradient is 1. Adds to `sums` [sums().size()] f64, on the stage's device. On a
  // tape that does not record (evaluation) only the sums are of use.
  virtual StageOutputs forward(Tape& tape, const StageInputs& inputs, const Tensor& sums) const = 0;
  // What is reported of the sums. The first is "loss", what the run minimises.
  virtual std::vector<Metric> metrics(const std::vector<double>& sums) const = 0;
};

// What the loss of a stage's output is made of.
struct ObjectiveInputs {
  const Decoder& student;      // this stage of it: its tensor-parallel group, its output matrix
  const Var& hidden;           // [T, d], the stage's output; on the last stage after the final norm
  const MicroBatch& batch;     // tokens, labels, documents
  const SignalParts& teacher;  // the signals that are for this stage
  double loss_tokens;          // see StageInputs
  const Parameter* teacher_head = nullptr;
};

// An objective whose loss is of what a stage puts out.
class OutputObjective : public Objective {
 public:
  StageOutputs forward(Tape& tape, const StageInputs& inputs, const Tensor& sums) const final;
  // Of one micro-batch, [1] f64, on a stage that has a loss; see forward.
  virtual Var loss(Tape& tape, const ObjectiveInputs& inputs, const Tensor& sums) const = 0;
};

using ObjectiveMaker = std::unique_ptr<Objective> (*)(const LossOptions&);
// By the name in a recipe's loss.objective. Objectives from outside this folder add themselves before a
// recipe is read.
std::map<std::string, ObjectiveMaker>& objective_registry();

}  // namespace wuneng

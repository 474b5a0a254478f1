// Word-level distillation: a divergence between the teacher's and the student's distribution over the
// vocabulary that both share, with temperature, mixed with cross entropy (docs/model.md, "Losses", stage 2).
#include <algorithm>

#include "model/objectives/objectives.h"
#include "model/objectives/vocabulary_loss.h"

namespace wuneng {
namespace {

// The one part of a signal that is gathered.
const SignalPart& whole(const ObjectiveInputs& in, const char* signal) {
  const auto& parts = in.teacher.of(signal);
  WUNENG_ASSERT(parts.size() == 1);
  return parts[0];
}

TeacherDistribution of_logits(const ObjectiveInputs& in, const LossOptions&) {
  return {.logits = in.teacher.of("logits")};
}

TeacherDistribution of_hidden(const ObjectiveInputs& in, const LossOptions&) {
  WUNENG_ASSERT(in.teacher_head != nullptr);
  return {.hidden = whole(in, "hidden"), .head = in.teacher_head};
}

TeacherDistribution of_top_k(const ObjectiveInputs& in, const LossOptions& options) {
  return {.ids = whole(in, "top_k.ids").values,
          .logprobs = whole(in, "top_k.logprobs").values,
          .shared = options.shared_vocabulary};
}

// By the name of the teacher signal.
const std::map<std::string, TeacherDistribution (*)(const ObjectiveInputs&, const LossOptions&)>
    kDistributions = {{"logits", of_logits}, {"hidden", of_hidden}, {"top_k", of_top_k}};

class DistillationObjective : public OutputObjective {
 public:
  DistillationObjective(std::string name, const LossOptions& options, float beta)
      : name_(std::move(name)), options_(options) {
    options_.beta = beta;
  }

  std::vector<std::string> teacher_signals() const override { return {options_.teacher_signal}; }
  bool needs_teacher_head() const override { return options_.teacher_signal == "hidden"; }
  std::vector<std::string> sums() const override { return vocabulary_loss_sums(); }

  Var loss(Tape& tape, const ObjectiveInputs& in, const Tensor& sums) const override {
    return vocabulary_loss(tape, in.student.placement().tp, in.hidden, in.student.head(), in.batch.labels,
                           kDistributions.at(options_.teacher_signal)(in, options_), options_, in.loss_tokens,
                           sums);
  }

  std::vector<Metric> metrics(const std::vector<double>& sums) const override {
    const double tokens = std::max(1.0, sums[2]), divergence = sums[0] / tokens, ce = sums[1] / tokens;
    return {{"loss", (1 - options_.ce_weight) * divergence + options_.ce_weight * ce},
            {name_, divergence},
            {"ce", ce}};
  }

 private:
  std::string name_;
  LossOptions options_;
};

}  // namespace

// KL(teacher || student)
std::unique_ptr<Objective> make_kl_objective(const LossOptions& options) {
  return std::make_unique<DistillationObjective>("kl", options, 0.0f);
}

// KL(student || teacher)
std::unique_ptr<Objective> make_reverse_kl_objective(const LossOptions& options) {
  return std::make_unique<DistillationObjective>("reverse_kl", options, 1.0f);
}

// The generalized Jensen-Shannon divergence, between the two
std::unique_ptr<Objective> make_jsd_objective(const LossOptions& options) {
  return std::make_unique<DistillationObjective>("jsd", options, options.beta);
}

}  // namespace wuneng

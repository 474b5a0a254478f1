// Cross entropy against the next token: pretraining and supervised fine-tuning, without a teacher.
#include <algorithm>

#include "model/objectives/objectives.h"
#include "model/objectives/vocabulary_loss.h"

namespace wuneng {
namespace {

class CeObjective : public OutputObjective {
 public:
  explicit CeObjective(LossOptions options) : options_(options) { options_.ce_weight = 1; }

  std::vector<std::string> teacher_signals() const override { return {}; }
  std::vector<std::string> sums() const override { return vocabulary_loss_sums(); }

  Var loss(Tape& tape, const ObjectiveInputs& in, const Tensor& sums) const override {
    return vocabulary_loss(tape, in.student.placement().tp, in.hidden, in.student.head(), in.batch.labels, {},
                           options_, in.loss_tokens, sums);
  }

  std::vector<Metric> metrics(const std::vector<double>& sums) const override {
    const double ce = sums[1] / std::max(1.0, sums[2]);
    return {{"loss", ce}, {"ce", ce, false}};
  }

 private:
  LossOptions options_;
};

}  // namespace

std::unique_ptr<Objective> make_ce_objective(const LossOptions& options) {
  return std::make_unique<CeObjective>(options);
}

}  // namespace wuneng

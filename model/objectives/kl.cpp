// Word-level distillation: KL(teacher || student) over the vocabulary that both share, with temperature,
// mixed with cross entropy (docs/model.md, "Losses", stage 2).
#include <algorithm>

#include "model/objectives/objectives.h"
#include "model/objectives/vocabulary_loss.h"

namespace wuneng {
namespace {

class KlObjective : public OutputObjective {
 public:
  explicit KlObjective(const LossOptions& options) : options_(options) {}

  std::vector<std::string> teacher_signals() const override { return {"logits"}; }
  std::vector<std::string> sums() const override { return vocabulary_loss_sums(); }

  Var loss(Tape& tape, const ObjectiveInputs& in, const Tensor& sums) const override {
    return vocabulary_loss(tape, in.student.placement().tp, in.hidden, in.student.head(), in.batch.labels,
                           in.teacher.of("logits"), options_, in.loss_tokens, sums);
  }

  std::vector<Metric> metrics(const std::vector<double>& sums) const override {
    const double tokens = std::max(1.0, sums[2]), kl = sums[0] / tokens, ce = sums[1] / tokens;
    return {{"loss", (1 - options_.ce_weight) * kl + options_.ce_weight * ce}, {"kl", kl}, {"ce", ce}};
  }

 private:
  LossOptions options_;
};

}  // namespace

std::unique_ptr<Objective> make_kl_objective(const LossOptions& options) {
  return std::make_unique<KlObjective>(options);
}

}  // namespace wuneng

// Direct preference optimisation against a frozen reference (preference_loss.h), which is the run's teacher:
// its signal is one log-probability a label.
#include <algorithm>

#include "model/objectives/objectives.h"
#include "model/objectives/preference_loss.h"

namespace wuneng {
namespace {

class DpoObjective : public OutputObjective {
 public:
  explicit DpoObjective(const LossOptions& options) : options_(options) {}

  std::vector<std::string> teacher_signals() const override { return {"label_logprob"}; }
  MeanOver mean_over() const override { return MeanOver::pairs; }
  std::vector<std::string> sums() const override { return preference_loss_sums(); }

  Var loss(Tape& tape, const ObjectiveInputs& in, const Tensor& sums) const override {
    return preference_loss(tape, in.student.placement().tp, in.hidden, in.student.head(), in.batch,
                           in.teacher.of("label_logprob"), options_, in.loss_tokens, sums);
  }

  std::vector<Metric> metrics(const std::vector<double>& sums) const override {
    const double pairs = std::max(1.0, sums[6]), chosen = sums[1] / pairs, rejected = sums[2] / pairs;
    return {{"loss", sums[0] / pairs},
            {"margin", chosen - rejected},
            {"accuracy", sums[3] / pairs},
            {"reward_chosen", chosen, false},
            {"reward_rejected", rejected, false},
            {"logp_chosen", sums[4] / pairs, false},
            {"logp_rejected", sums[5] / pairs, false},
            {"pairs", sums[6], false}};
  }

 private:
  LossOptions options_;
};

}  // namespace

std::unique_ptr<Objective> make_dpo_objective(const LossOptions& options) {
  return std::make_unique<DpoObjective>(options);
}

}  // namespace wuneng

#include "model/objectives/preference_loss.h"

#include <cmath>

#include "model/objectives/label_logprobs.h"

namespace wuneng {
namespace {

// log sigmoid(x), without overflow.
double log_sigmoid(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }
double sigmoid(double x) { return std::exp(log_sigmoid(x)); }

// [T], of the parts.
std::vector<double> reference_values(const std::vector<SignalPart>& parts, int64_t T) {
  std::vector<double> out(T, NAN);
  int64_t covered = 0;
  for (const SignalPart& part : parts) {
    require(part.columns == Range{0, 1} && part.rows.end <= T && part.values.dtype() == DType::f32,
            "reference's log-probabilities, rows {}..{}, columns {}..{}, {}: expected rows of {}, one column "
            "of f32",
            part.rows.begin, part.rows.end, part.columns.begin, part.columns.end,
            to_string(part.values.dtype()), T);
    const Tensor host = part.values.to(Device{});
    std::copy_n(host.f32(), part.rows.size(), out.begin() + part.rows.begin);
    covered += part.rows.size();
  }
  require(covered == T, "reference's log-probabilities: expected {} rows, found {}", T, covered);
  return out;
}

// One answer: its labelled rows are [first, last) among all that have a label.
struct Answer {
  size_t first, last;
  double policy = 0, reference = 0;
  double weight = 1;  // of a token in the answer's log-probability
};

class Answers {
 public:
  Answers(const MicroBatch& batch, const std::vector<int64_t>& rows, const Tensor& policy,
          const std::vector<double>& reference, bool length_normalised)
      : batch_(batch), rows_(rows), normalised_(length_normalised), reference_(reference) {
    policy_.assign(policy.data<double>(), policy.data<double>() + policy.numel());
  }

  Answer of(int64_t document) const {
    const auto row = [&](int64_t at) {
      return static_cast<size_t>(std::lower_bound(rows_.begin(), rows_.end(), at) - rows_.begin());
    };
    Answer out{row(batch_.documents.at(document)), row(batch_.documents.at(document + 1))};
    require(out.last > out.first, "document {} of a micro-batch: expected an answer with a label, found none",
            document);
    for (size_t i = out.first; i < out.last; ++i) {
      out.policy += policy_[i];
      out.reference += reference_[rows_[i]];
    }
    if (!normalised_) return out;
    out.weight = 1 / double(out.last - out.first);
    out.policy *= out.weight;
    out.reference *= out.weight;
    return out;
  }

 private:
  const MicroBatch& batch_;
  const std::vector<int64_t>& rows_;
  bool normalised_;
  const std::vector<double>& reference_;
  std::vector<double> policy_;
};

}  // namespace

std::vector<std::string> preference_loss_sums() {
  return {"loss", "reward_chosen", "reward_rejected", "accuracy", "logp_chosen", "logp_rejected", "pairs"};
}

Var preference_loss(Tape& tape, const Comm& tp, const Var& hidden, const Parameter* head,
                    const MicroBatch& batch, const std::vector<SignalPart>& reference,
                    const LossOptions& options, double pairs, const Tensor& sums) {
  const bool wanted = tape.recording() && (hidden.needs_grad() || head->var.needs_grad());
  const LabelLogprobs logprobs(tape.stream(), tp, hidden.value(), head, batch.labels, options.chunk_tokens);
  const std::vector<double> expected = reference_values(reference, hidden.dim(0));
  const Answers answers(batch, logprobs.rows(), logprobs.values().to(Device{}), expected,
                        options.length_normalised);
  const double beta = options.beta, smoothing = options.label_smoothing;
  std::vector<double> add(preference_loss_sums().size());
  std::vector<float> coefficients(logprobs.rows().size());  // of the loss by each log-probability
  for (const int64_t document : batch.pairs) {
    const Answer chosen = answers.of(document), rejected = answers.of(document + 1);
    const double reward_chosen = beta * (chosen.policy - chosen.reference),
                 reward_rejected = beta * (rejected.policy - rejected.reference),
                 margin = reward_chosen - reward_rejected,
                 loss = -(1 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin),
                 slope = beta * (smoothing * sigmoid(margin) - (1 - smoothing) * sigmoid(-margin)) / pairs;
    const double values[] = {loss,
                             reward_chosen,
                             reward_rejected,
                             reward_chosen > reward_rejected ? 1.0 : 0,
                             chosen.policy,
                             rejected.policy,
                             1};
    for (size_t i = 0; i < add.size(); ++i) add[i] += values[i];
    for (const auto& [answer, sign] : {std::pair{chosen, 1}, {rejected, -1}})
      for (size_t i = answer.first; i < answer.last; ++i)
        coefficients[i] = static_cast<float>(sign * slope * answer.weight);
  }
  const Tensor totals = sums.to(Device{});
  for (size_t i = 0; i < add.size(); ++i) totals.data<double>()[i] += add[i];
  sums.copy_from(totals);

  const Var out = tape.output(Tensor::from<double>({add[0] / pairs}, {1}).to(tape.stream().device), wanted);
  tape.record(out, [=] {
    WUNENG_ASSERT(out.grad().to(Device{}).f32()[0] == 1.0f);
    const Tensor dhidden = logprobs.backward(coefficients);
    if (hidden.needs_grad()) hidden.add_grad(dhidden);
  });
  return out;
}

}  // namespace wuneng

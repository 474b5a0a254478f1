// Attention alignment (docs/model.md, "Losses", stage 1): each layer's mixer gets what goes into the
// teacher's mixer of that layer, and its output is compared with what comes out of the teacher's. Mean over
// layers and labelled tokens of |a_teacher - a_student|_2 / sqrt(d).
//
// Layers do not depend on each other: no hidden state passes between stages.
#include <algorithm>

#include "kernels/row_distance.h"
#include "model/objectives/objectives.h"

namespace wuneng {
namespace {

class AlignObjective : public Objective {
 public:
  explicit AlignObjective(const LossOptions& options) : layers_(options.student_layers) {}

  std::vector<std::string> teacher_signals() const override { return {"mixer_input", "mixer_output"}; }
  std::vector<std::string> trains() const override { return {"*.self_attn.*", "*.alignment.*"}; }
  bool has_loss(int, int) const override { return true; }
  bool passes_hidden_state() const override { return false; }

  std::vector<std::string> sums() const override {
    std::vector<std::string> out;
    for (int64_t i = 0; i < layers_; ++i) out.push_back(fmt::format("distance.{}", i));
    out.push_back("tokens");
    return out;
  }

  StageOutputs forward(Tape& tape, const StageInputs& in, const Tensor& sums) const override {
    const SignalParts& teacher = in.teacher();
    const Decoder& student = in.student;
    const Range layers = student.layers();
    const DType activations = student.placement().activations;
    const Device device = tape.stream().device;
    // Where layers carry something, a hidden state without channels goes with it.
    StageOutputs out{
        {Var(Tensor::empty({in.batch.rows(), 0}, activations, device), tape.recording()), in.state.carried},
        {}};
    const std::vector<Var> outputs = in.student.mixers(
        tape, in.batch,
        [&](int64_t layer) { return Var(whole(tape, teacher, "mixer_input", layer).to(activations)); },
        out.state.carried, in.completed);
    const Tensor labels = in.batch.labels.to(device);
    std::vector<Tensor> gradients;
    for (int64_t i = layers.begin; i < layers.end; ++i) {
      const Var& a = outputs[i - layers.begin];
      gradients.push_back(tape.wants(a) ? like(a) : Tensor());
      kernels::row_distance(tape.stream(),
                            {.student = a.value(),
                             .teacher = whole(tape, teacher, "mixer_output", i),
                             .labels = labels,
                             .scale = static_cast<float>(1 / (in.loss_tokens * double(layers_))),
                             .total = sums.rows(i, i + 1),
                             .tokens = i == 0 ? sums.rows(layers_, layers_ + 1) : Tensor(),
                             .gradient = gradients.back()});
    }
    // The sums hold the value; on the tape the loss only starts the backward pass.
    out.loss = tape.output(Tensor::zeros({1}, DType::f64, device), tape.recording());
    tape.record(out.loss, [outputs, gradients] {
      for (size_t i = 0; i < outputs.size(); ++i)
        if (gradients[i].defined()) outputs[i].add_grad(gradients[i]);
    });
    return out;
  }

  std::vector<Metric> metrics(const std::vector<double>& sums) const override {
    const double tokens = std::max(1.0, sums.back());
    double total = 0;
    for (int64_t i = 0; i < layers_; ++i) total += sums[i] / tokens;
    std::vector<Metric> out = {{"loss", total / double(layers_)}};
    for (int64_t i = 0; i < layers_; ++i)
      out.push_back({fmt::format("layer.{}", i), sums[i] / tokens, false});
    return out;
  }

 private:
  // [T, the teacher's d]
  static Tensor whole(const Tape& tape, const SignalParts& teacher, const char* signal, int64_t layer) {
    const auto& parts = teacher.of(fmt::format("{}.{}", signal, layer));
    WUNENG_ASSERT(parts.size() == 1);  // gathered
    return parts[0].numbers(tape.stream(), 0, parts[0].rows.size());
  }

  int64_t layers_;
};

}  // namespace

std::unique_ptr<Objective> make_align_objective(const LossOptions& options) {
  return std::make_unique<AlignObjective>(options);
}

}  // namespace wuneng

// The teacher's log-probability of each row's label [T, 1] f32, 0 where there is none, from its last stage to
// the student's: the frozen reference of preference optimisation.
#include "model/objectives/label_logprobs.h"
#include "model/teacher_signals/signal_source.h"

namespace wuneng {
namespace {

class LabelLogprobSource : public SignalSource {
 public:
  // Sums of thousands of log-probabilities are compared: bf16 would leave no digit of their difference.
  std::vector<TeacherSignal> signals(const SignalEnds& ends, DType) const override {
    const Layout &teacher = ends.teacher_layout, &student = ends.student_layout;
    return {{"label_logprob", 1, DType::f32, replicated_columns(teacher.pp - 1, teacher.tp, 1),
             gathered_columns(ends.output_stage, student.tp, 1)}};
  }

  Tensor make(const TeacherOutputs& outputs) const override {
    const Decoder& model = outputs.model;
    const LabelLogprobs logprobs(model.stream(), model.placement().tp, outputs.hidden, model.head(),
                                 outputs.batch.labels, 0);
    const Tensor values = logprobs.values().to(Device{});
    const Tensor out = Tensor::zeros({outputs.batch.rows(), 1});
    for (size_t i = 0; i < logprobs.rows().size(); ++i)
      out.f32()[logprobs.rows()[i]] = static_cast<float>(values.data<double>()[i]);
    return out.to(model.placement().device);
  }

  void write(const TeacherSignal&, const TeacherOutputs& outputs, const SignalPart& part) const override {
    part.values.copy_from(outputs.made.rows(part.rows.begin, part.rows.end));
  }
};

}  // namespace

std::unique_ptr<SignalSource> make_label_logprob_source() { return std::make_unique<LabelLogprobSource>(); }

}  // namespace wuneng

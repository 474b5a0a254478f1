// The teacher's hidden state [T, d] after its final norm, from its last stage to the student's, whose ranks
// multiply it with a frozen shard of the teacher's output matrix (model/teacher_head.h). All ranks of a stage
// hold it; those of the student gather it, so that each byte crosses once.
#include "model/teacher_signals/signal_source.h"

namespace wuneng {
namespace {

class HiddenSource : public SignalSource {
 public:
  explicit HiddenSource(const SignalOptions& options)
      : dtype_(options.rounded_to.value_or(options.activations)) {}

  std::vector<TeacherSignal> signals(const SignalEnds& ends) const override {
    const Layout &teacher = ends.teacher_layout, &student = ends.student_layout;
    const int64_t width = ends.teacher.hidden_size;
    return {{"hidden", width, dtype_, replicated_columns(teacher.pp - 1, teacher.tp, width),
             gathered_columns(ends.output_stage, student.tp, width)}};
  }

  void write(const TeacherSignal&, const TeacherOutputs& outputs, const SignalPart& part) const override {
    part.values.copy_from(outputs.hidden.rows(part.rows.begin, part.rows.end));
  }

 private:
  DType dtype_;
};

}  // namespace

std::unique_ptr<SignalSource> make_hidden_source(const SignalOptions& options) {
  return std::make_unique<HiddenSource>(options);
}

}  // namespace wuneng

// The teacher's logits [T, vocabulary], from its last stage to the student's. Both sides shard the vocabulary
// over tp; the student wants its columns of the vocabulary that both models share.
#include <algorithm>

#include "model/teacher_signals/signal_source.h"

namespace wuneng {
namespace {

class LogitsSource : public SignalSource {
 public:
  std::vector<TeacherSignal> signals(const SignalEnds& ends, DType dtype) const override {
    const int64_t held = ends.teacher.vocab_size, shared = std::min(held, ends.student.vocab_size);
    const Layout &teacher = ends.teacher_layout, &student = ends.student_layout;
    SignalLayout wanted = sharded_columns(ends.output_stage, student.tp, ends.student.vocab_size);
    for (Range& columns : wanted.columns)
      columns = {std::min(columns.begin, shared), std::min(columns.end, shared)};
    return {{"logits", held, dtype, sharded_columns(teacher.pp - 1, teacher.tp, held), wanted}};
  }

  void write(const TeacherSignal&, const TeacherOutputs& outputs, const SignalPart& part) const override {
    outputs.model.logits(outputs.hidden.rows(part.rows.begin, part.rows.end), part.columns, part.values);
  }
};

}  // namespace

std::unique_ptr<SignalSource> make_logits_source() { return std::make_unique<LogitsSource>(); }

}  // namespace wuneng

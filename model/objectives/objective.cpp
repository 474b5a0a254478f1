#include "model/objectives/objective.h"

namespace wuneng {

StageOutputs OutputObjective::forward(Tape& tape, const StageInputs& in, const Tensor& sums) const {
  StageOutputs out{in.student.forward(tape, in.batch, in.state, in.completed), {}};
  const SignalParts& teacher = in.teacher();
  if (in.has_loss)
    out.loss = loss(tape, {in.student, out.state.hidden, in.batch, teacher, in.loss_tokens}, sums);
  return out;
}

}  // namespace wuneng

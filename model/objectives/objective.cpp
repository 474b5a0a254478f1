#include "model/objectives/objective.h"

#include <algorithm>

namespace wuneng {

double Objective::count(const MicroBatch& batch) const {
  if (mean_over() == MeanOver::pairs) return double(batch.pairs.size());
  const int32_t* labels = batch.labels.data<int32_t>();
  return double(std::count_if(labels, labels + batch.rows(), [](int32_t label) { return label >= 0; }));
}

StageOutputs OutputObjective::forward(Tape& tape, const StageInputs& in, const Tensor& sums) const {
  StageOutputs out{in.student.forward(tape, in.batch, in.state, in.completed), {}};
  const SignalParts& teacher = in.teacher();
  if (in.has_loss)
    out.loss =
        loss(tape, {in.student, out.state.hidden, in.batch, teacher, in.loss_tokens, in.teacher_head}, sums);
  return out;
}

}  // namespace wuneng

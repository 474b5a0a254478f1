#include "launch/train/colocated_teacher.h"

#include "launch/train/checkpoint_weights.h"

namespace wuneng {

ColocatedTeacher::ColocatedTeacher(const TrainRecipe& r, const Mesh& mesh,
                                   const std::vector<MicroBatch>& batches, Device device)
    : batches_(batches),
      model_(*r.teacher,
             Placement{
                 .tp = mesh.tp, .device = device, .activations = r.activations_on(device, r.teacher_dtype)},
             r.teacher_dtype),
      tp_rank_(mesh.tp_rank) {
  load_weights(model_, *open_weights(r.teacher_path), 0);
  const Layout teacher_layout{.dp = mesh.layout.dp, .pp = 1, .tp = mesh.layout.tp};
  for (SourcedSignal& s : teacher_signals(r.objective->teacher_signals(),
                                          {*r.teacher, r.student, teacher_layout, mesh.layout}, DType::f32))
    if (s.signal.student.stage == mesh.pp_rank) signals_.push_back(std::move(s));
}

const SignalParts& ColocatedTeacher::take(int64_t, int micro_batch) {
  Tape silent(model_.stream(), false);
  const Tensor hidden = model_.forward(silent, batches_[micro_batch], {}).hidden.value();
  for (const auto& [signal, source] : signals_) {
    // What this rank wants it holds itself: the recipe checks that both vocabularies are sharded alike.
    const Range rows = {0, hidden.dim(0)}, columns = signal.student.columns[tp_rank_];
    parts_.expect(signal.name);
    if (columns.size() == 0) continue;
    const SignalPart part{
        rows, columns, Tensor::empty({rows.size(), columns.size()}, signal.dtype, model_.placement().device)};
    source->write(signal, model_, hidden, part);
    parts_.add(signal.name, part);
  }
  return parts_;
}

}  // namespace wuneng

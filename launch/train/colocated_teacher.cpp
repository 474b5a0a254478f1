#include "launch/train/colocated_teacher.h"

#include "launch/train/checkpoint_weights.h"
#include "launch/train/teacher_placement.h"
#include "model/layer_map.h"

namespace wuneng {
namespace {

std::vector<Comm::Channel> forward_channels(int stages) {
  std::vector<Comm::Channel> out;
  for (int stage = 1; stage < stages; ++stage) out.push_back({stage - 1, stage});
  return out;
}

}  // namespace

ColocatedTeacher::ColocatedTeacher(const TrainRecipe& r, const Mesh& mesh,
                                   const std::vector<MicroBatch>& batches, Device device)
    : ColocatedTeacher(r, mesh, batches, device,
                       colocated_stages(r.layer_map, mesh.layout.pp, r.teacher->num_layers)) {}

ColocatedTeacher::ColocatedTeacher(const TrainRecipe& r, const Mesh& mesh,
                                   const std::vector<MicroBatch>& batches, Device device,
                                   const std::vector<Range>& stages)
    : batches_(batches),
      // In the order of the student's last model chunks, beside which it runs.
      pp_(mesh.pp.split(0, r.virtual_stages().position(mesh.pp_rank, r.chunks - 1), "student.teacher_pp")),
      model_(*r.teacher,
             Placement{.tp = mesh.tp,
                       .stage = pp_.rank(),
                       .stages = mesh.layout.pp,
                       .device = device,
                       .activations = r.activations_on(device, r.teacher_dtype),
                       .layers = stages[pp_.rank()]},
             r.teacher_dtype),
      tp_rank_(mesh.tp_rank),
      dp_rank_(mesh.dp_rank),
      dp_(mesh.layout.dp) {
  pp_.connect_messages(device, forward_channels(mesh.layout.pp));
  if (!device.dry) load_weights(model_, *open_weights(r.teacher_path), 0);
  for (SourcedSignal& s : teacher_signals_of(r))
    if (s.signal.student.stage == mesh.pp_rank) signals_.push_back(std::move(s));
}

StageState ColocatedTeacher::receive(int64_t rows) {
  const auto next = [&](int64_t width) {
    const Tensor buffer =
        Tensor::empty({rows, width}, model_.placement().activations, model_.placement().device);
    pp_.recv(buffer, pp_.rank() - 1, 0, "teacher's hidden state");
    return Var(buffer);
  };
  StageState out{next(model_.hidden_size()), {}};
  for (const CarriedTensor& t : model_.carried_in()) out.carried[t.name] = next(t.width);
  return out;
}

void ColocatedTeacher::send(const StageState& state) {
  while (!sends_.empty() && sends_.front().done()) sends_.pop_front();
  const auto next = [&](const Tensor& values) {
    sends_.push_back(pp_.isend(values, pp_.rank() + 1, 0, "teacher's hidden state"));
  };
  next(state.hidden.value());
  for (const CarriedTensor& t : model_.carried_out()) next(state.carried.at(t.name).value());
}

const SignalParts& ColocatedTeacher::take(int64_t, int micro_batch) {
  const MicroBatch& batch = batches_[micro_batch];
  Tape silent(model_.stream(), false);
  if (observers_) silent.observe(observers_(int64_t{micro_batch} * dp_ + dp_rank_));
  MixerTaps taps = taps_of(signals_);
  const StageState out =
      model_.forward(silent, batch, pp_.rank() == 0 ? StageState{} : receive(batch.rows()), taps);
  if (pp_.rank() + 1 < pp_.size()) send(out);
  give_signals(signals_, {model_, batch, out.hidden.value(), taps},
               [&](const TeacherSignal& signal, const FillPart& fill) {
                 // What this rank wants it holds itself: teacher_signals_of checks it.
                 const Range rows = {0, batch.rows()}, columns = signal.student.columns[tp_rank_];
                 parts_.expect(signal.name);
                 if (columns.size() == 0) return;
                 const SignalPart part = SignalPart::empty(signal, rows, columns, model_.placement().device);
                 fill(part);
                 parts_.add(signal.name, part);
               });
  return parts_;
}

void ColocatedTeacher::finish() {
  for (Request& r : sends_) r.wait();
  sends_.clear();
}

}  // namespace wuneng

#include "launch/plan/dry_rank.h"

#include "launch/train/colocated_teacher.h"
#include "launch/train/held_teacher_head.h"
#include "launch/train/on_policy.h"
#include "launch/train/signal_cache.h"
#include "launch/train/student_pass.h"
#include "launch/train/teacher_service.h"
#include "launch/train/trainable.h"
#include "launch/train/training_state.h"
#include "parallel/optimizer.h"
#include "parallel/stream_plan.h"
#include "parallel/weight_gather.h"

namespace wuneng {
namespace {

Device dry_device(const TrainRecipe& r) {
  return {r.device == "cpu" ? DeviceKind::cpu : DeviceKind::cuda, 0, true};
}

// The bytes that something has added.
class Growth {
 public:
  int64_t take() {
    const int64_t now = dry_memory_use().current;
    return now - std::exchange(before_, now);
  }

 private:
  int64_t before_ = dry_memory_use().current;
};

Mesh dry_mesh(const TrainRecipe& r, Role role, int stage, int tp_rank) {
  Mesh m;
  m.role = role;
  m.student = r.layout;
  m.teacher = r.teacher_layout;
  m.layout = role == Role::student ? r.layout : *r.teacher_layout;
  m.pp_rank = stage, m.tp_rank = tp_rank;
  m.tp = Comm::dry(tp_rank, m.layout.tp, "tp");
  m.pp = Comm::dry(stage, m.layout.pp, "pp");
  m.pp_gradients = Comm::dry(stage, m.layout.pp, "pp_gradients");
  m.dp = Comm::dry(0, m.layout.dp, "dp");
  m.role_comm = Comm::dry(stage * m.layout.tp + tp_rank, m.layout.size(), "role");
  const bool end = m.layout.pp > 1 && (m.first_stage() || m.last_stage());
  m.embedding = end ? Comm::dry(m.first_stage() ? 0 : 1, 2, "embedding") : Comm();
  return m;
}

// Sequences that are whole documents, all of their rows with labels; of preference data, pairs of documents.
MicroBatch longest_documents(const TrainRecipe& r) {
  MicroBatch out{Tensor::zeros({r.rows()}, DType::i32), Tensor::zeros({r.rows()}, DType::i32), {}};
  const bool pairs = r.objective->mean_over() == MeanOver::pairs;
  for (int64_t i = 0; i < r.micro_batch; ++i) {
    if (pairs) out.pairs.push_back(static_cast<int64_t>(out.documents.size()));
    out.documents.push_back(i * r.seq_len);
    if (pairs) out.documents.push_back(i * r.seq_len + r.seq_len / 2);
  }
  out.documents.push_back(r.rows());
  return out;
}

// The buffers of a stream (StreamedTeacher), which are there before anything arrives.
class DryStream : public TeacherSource {
 public:
  DryStream(const TrainRecipe& r, const Mesh& mesh, Device device) {
    std::vector<TeacherSignal> all;
    for (const SourcedSignal& s : streamed_signals(r)) all.push_back(s.signal);
    const StreamShape shape{r.layout.dp, r.teacher_layout->dp, static_cast<int>(r.accumulation)};
    const int credits = stream_credits(all, r.credits, mesh.pp_rank) * replicas_that_serve(shape);
    for (const TeacherSignal& signal : all) {
      if (signal.student.stage != mesh.pp_rank) continue;
      parts_.expect(signal.name);
      const Range columns = signal.student.columns[mesh.tp_rank];
      const auto of_rows = [&](int64_t rows) {
        return Tensor::empty({rows, columns.size()}, signal.dtype, device);
      };
      const bool gathers = signal.student.gathered && mesh.tp.size() > 1;
      for (int i = 0; i < credits; ++i)
        buffers_.push_back(
            of_rows(gathers ? gathered_rows(r.rows(), mesh.tp.size(), mesh.tp_rank).size() : r.rows()));
      if (columns.size() == 0) continue;
      parts_.add(signal.name, {{0, r.rows()}, columns, gathers ? of_rows(r.rows()) : buffers_.back()});
    }
  }
  const SignalParts& take(int64_t, int) override { return parts_; }
  void release() override {}

 private:
  std::vector<Tensor> buffers_;
  SignalParts parts_;
};

// The signals of one micro-batch (CachedTeacher), which are read into the host's memory before.
class DryCache : public TeacherSource {
 public:
  DryCache(const TrainRecipe& r, const Mesh& mesh, Device device) : r_(r), device_(device) {
    signals_ = cached_signals(r, mesh.pp_rank);
  }
  const SignalParts& take(int64_t, int) override {
    for (const CachedSignal& s : signals_) {
      parts_.expect(s.signal.name);
      parts_.add(s.signal.name, SignalPart::empty(s.signal, {0, r_.rows()}, {0, s.signal.width}, device_));
    }
    return parts_;
  }
  void release() override { parts_.clear(); }

 private:
  const TrainRecipe& r_;
  Device device_;
  std::vector<CachedSignal> signals_;
  SignalParts parts_;
};

}  // namespace

RankUse dry_student_rank(const TrainRecipe& r, int stage, int tp_rank) {
  reset_dry_memory_peak();
  const Device device = dry_device(r);
  const Mesh mesh = dry_mesh(r, Role::student, stage, tp_rank);
  RankUse use;
  Growth growth;
  ModelChunks model(r.student, r.virtual_stages(), stage, student_placement(r, mesh.tp, device),
                    r.student_dtype, r.recompute, r.alignment_width());
  use.weights = growth.take();
  choose_trainable(r, model.parameters());
  const bool shares = r.zero > 0 && mesh.layout.dp > 1;
  GradientSums gradients(model.parameters(), {mesh.tp, mesh.pp, mesh.dp, mesh.embedding},
                         shares ? SumOverDp::share : SumOverDp::whole);
  std::optional<WeightGather> weights;
  if (shares) weights.emplace(gradients.buckets(), mesh.dp);
  use.gradients = growth.take();
  Optimizer optimizer(gradients.updates(), r.adamw, model.stream());
  use.optimizer = growth.take();

  const std::vector<MicroBatch> batches(r.accumulation, longest_documents(r));
  std::unique_ptr<TeacherSource> teacher;
  if (r.teacher_layout) teacher = std::make_unique<DryStream>(r, mesh, device);
  const Parameter* colocated_head = nullptr;
  if (r.cached) teacher = std::make_unique<DryCache>(r, mesh, device);
  if (!teacher && r.runs_teacher()) {
    auto colocated = std::make_unique<ColocatedTeacher>(r, mesh, batches, device);
    colocated_head = colocated->head();
    teacher = std::move(colocated);
  }
  std::optional<Parameter> head;
  if (r.objective->needs_teacher_head()) head = teacher_head(r, model, colocated_head).rows;
  use.teacher = growth.take();
  std::optional<SequenceCache> generation;
  if (r.on_policy.share > 0) {
    const EngineOptions options = on_policy_engine(r);
    generation.emplace(model[0].make_cache(options.max_sequences, options.context_length));
  }

  dry_run::take();
  StudentPass(r, mesh, model, gradients, batches, teacher.get(), head ? &*head : nullptr).run(0, true, 1);
  gradients.finish();
  optimizer.step(0, clip_scale(gradients.squared_norm(), r.clip));
  if (weights) weights->run();
  use.peak = dry_memory_use().peak;
  use.counts = dry_run::take();
  return use;
}

RankUse dry_teacher_rank(const TrainRecipe& r, int stage, int tp_rank) {
  reset_dry_memory_peak();
  const Device device = dry_device(r);
  const Mesh mesh = dry_mesh(r, Role::teacher, stage, tp_rank);
  RankUse use;
  Growth growth;
  Decoder model(*r.teacher,
                Placement{mesh.tp, stage, mesh.layout.pp, device, r.activations_on(device, r.teacher_dtype)},
                r.teacher_dtype);
  use.weights = growth.take();
  const MicroBatch batch = longest_documents(r);
  std::vector<SourcedSignal> signals = streamed_signals(r);
  std::erase_if(signals, [&](const SourcedSignal& s) { return s.signal.teacher.stage != stage; });
  // As many sets of frames as the students' stages have credits, which are sent and not yet received.
  std::vector<Tensor> frames;
  for (const SourcedSignal& s : signals)
    for (int i = 0; i < r.credits; ++i)
      frames.push_back(
          Tensor::empty({r.rows(), s.signal.teacher.columns[tp_rank].size()}, s.signal.dtype, device));
  use.teacher = growth.take();

  dry_run::take();
  Tape tape(model.stream(), false);
  MixerTaps taps = taps_of(signals);
  StageState in;
  if (stage > 0) {
    const auto received = [&](int64_t width) {
      return Var(Tensor::empty({r.rows(), width}, model.placement().activations, device));
    };
    in.hidden = received(model.hidden_size());
    for (const CarriedTensor& t : model.carried_in()) in.carried[t.name] = received(t.width);
  }
  const StageState out = model.forward(tape, batch, in, taps);
  TeacherOutputs outputs{model, batch, out.hidden.value(), taps};
  for (size_t i = 0; i < signals.size(); ++i) {
    const auto& [signal, source] = signals[i];
    outputs.made = source->make(outputs);
    source->write(signal, outputs, {{0, r.rows()}, signal.teacher.columns[tp_rank], frames[i * r.credits]});
  }
  use.peak = dry_memory_use().peak;
  use.counts = dry_run::take();
  return use;
}

}  // namespace wuneng

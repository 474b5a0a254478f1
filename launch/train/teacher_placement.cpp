#include "launch/train/teacher_placement.h"

#include "model/layer_map.h"
#include "parallel/stream_plan.h"
#include "runtime/launcher.h"

namespace wuneng {
namespace {

// The type of the teacher's hidden states.
DType activations_of_teacher(const TrainRecipe& r) {
  return r.activations_on({r.device_kind(), 0}, r.teacher_dtype);
}

std::vector<SourcedSignal> signals_named(const TrainRecipe& r, const std::vector<std::string>& names) {
  // In the cache they are as from a teacher of one rank.
  const bool apart = r.teacher_streams || r.cached;
  const Layout at = r.teacher_streams ? *r.teacher_layout : r.cached ? Layout{} : r.layout;
  const std::vector<Range> stages =
      apart ? stages_of(*r.teacher, at.pp) : colocated_stages(r.layer_map, at.pp, r.teacher->num_layers);
  SignalOptions options{.activations = activations_of_teacher(r),
                        .top_k = r.top_k,
                        .shared_vocabulary = r.loss.shared_vocabulary,
                        .temperature = r.loss.temperature};
  if (apart) options.rounded_to = r.stream_dtype;
  return teacher_signals(
      names, {*r.teacher, r.student, at, r.layout, stages, r.layer_map, r.virtual_stages().last_stage()},
      options);
}

// Of a colocated teacher everything stays on the rank.
void check_colocated(const TrainRecipe& r, const TeacherSignal& signal) {
  const int on_stage = r.virtual_stages().position(signal.teacher.stage, r.chunks - 1);
  require(
      on_stage == signal.student.stage,
      "{}: teacher.mode = \"colocated\": signal '{}' is made on stage {} and wanted on stage {}: expected "
      "teacher.layer_map to change to another layer of the teacher from stage to stage; or use mode = "
      "\"stream\"",
      r.path, signal.name, on_stage, signal.student.stage);
  for (int rank = 0; rank < r.layout.tp; ++rank) {
    const Range held = signal.teacher.columns[rank], wanted = signal.student.columns[rank];
    require(wanted.size() == 0 || (held.begin <= wanted.begin && wanted.end <= held.end),
            "{}: teacher.mode = \"colocated\" with layout.tp = {}: signal '{}': tp rank {} wants columns "
            "{}..{} and holds {}..{}: expected equal sizes of both models (vocabularies: student {}, teacher "
            "{}); or use mode = \"stream\"",
            r.path, r.layout.tp, signal.name, rank, wanted.begin, wanted.end, held.begin, held.end,
            r.student.vocab_size, r.teacher->vocab_size);
  }
}

}  // namespace

bool teacher_streams(const std::string& mode, const Layout& student, const Layout& teacher) {
  if (mode != "auto") return mode == "stream";
  const int started = launcher::started_this() ? launcher::ranks() : 1;
  return started != student.size() || started == student.size() + teacher.size();
}

std::vector<SourcedSignal> teacher_signals_of(const TrainRecipe& r) {
  std::vector<SourcedSignal> out = signals_named(r, r.objective->teacher_signals());
  if (!r.teacher_streams && !r.cached)
    for (const SourcedSignal& s : out) check_colocated(r, s.signal);
  return out;
}

double signal_bytes_a_token(const TrainRecipe& r, const std::vector<std::string>& names) {
  constexpr int64_t kRows = 1 << 20;
  std::vector<TeacherSignal> signals;
  for (const SourcedSignal& s : signals_named(r, names)) signals.push_back(s.signal);
  double out = 0;
  for (const Transfer& t : stream_transfers(signals, kRows)) {
    const DType dtype = signals[t.signal].dtype;
    out += double(t.rows.size() * sent_columns(dtype, t.columns.size()) * size_of(dtype)) / kRows;
  }
  return out;
}

std::string describe_teacher(const TrainRecipe& r, bool chosen_here) {
  if (!r.precomputed.empty()) return fmt::format("teacher: its log-probabilities are in {}", r.precomputed);
  if (r.cached)
    return fmt::format(
        "teacher: its signals are in the cache {}; {:.0f} bytes a token are read, and of its "
        "weights {}",
        r.cache, signal_bytes_a_token(r, r.objective->teacher_signals()),
        r.objective->needs_teacher_head() ? "the output matrix" : "none");
  const std::string why =
      chosen_here
          ? fmt::format(" (teacher.mode = \"auto\": {} as many ranks were started as layout asks for)",
                        r.teacher_streams ? "not" : "just")
          : "";
  if (!r.teacher_streams) {
    const int64_t element = size_of(activations_of_teacher(r));
    return fmt::format("teacher: colocated{}; {} bytes a token from stage to stage", why,
                       r.layout.pp == 1 ? 0 : r.teacher->hidden_size * element);
  }
  return fmt::format("teacher: on {} ranks of its own{}; {:.0f} bytes a token to the student",
                     r.teacher_layout->size(), why, signal_bytes_a_token(r, r.objective->teacher_signals()));
}

}  // namespace wuneng

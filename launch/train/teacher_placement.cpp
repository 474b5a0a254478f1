#include "launch/train/teacher_placement.h"

#include "model/layer_map.h"
#include "runtime/launcher.h"

namespace wuneng {
namespace {

// What the student's ranks want of a signal of one token, in bytes, each wanted byte once.
double bytes_a_token(const TeacherSignal& signal) {
  int64_t columns = 0;
  for (const Range& wanted : signal.student.columns) columns += wanted.size();
  if (signal.student.gathered) columns = signal.student.columns[0].size();
  return double(columns) * double(size_of(signal.dtype));
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
  const Layout at = r.teacher_streams ? *r.teacher_layout : r.layout;
  const std::vector<Range> stages = r.teacher_streams
                                        ? stages_of(*r.teacher, at.pp)
                                        : colocated_stages(r.layer_map, at.pp, r.teacher->num_layers);
  std::vector<SourcedSignal> out = teacher_signals(
      r.objective->teacher_signals(),
      {*r.teacher, r.student, at, r.layout, stages, r.layer_map, r.virtual_stages().last_stage()},
      r.teacher_streams ? r.stream_dtype : DType::f32);
  if (!r.teacher_streams)
    for (const SourcedSignal& s : out) check_colocated(r, s.signal);
  return out;
}

std::string describe_teacher(const TrainRecipe& r, bool chosen_here) {
  if (!r.precomputed.empty()) return fmt::format("teacher: its log-probabilities are in {}", r.precomputed);
  const std::string why =
      chosen_here
          ? fmt::format(" (teacher.mode = \"auto\": {} as many ranks were started as layout asks for)",
                        r.teacher_streams ? "not" : "just")
          : "";
  if (!r.teacher_streams) {
    const int64_t element = r.activations == "bf16" || (r.activations == "auto" && r.device != "cpu" &&
                                                        r.teacher_dtype == DType::bf16)
                                ? 2
                                : 4;
    return fmt::format("teacher: colocated{}; {} bytes a token from stage to stage", why,
                       r.layout.pp == 1 ? 0 : r.teacher->hidden_size * element);
  }
  double bytes = 0;
  for (const SourcedSignal& s : teacher_signals_of(r)) bytes += bytes_a_token(s.signal);
  return fmt::format("teacher: on {} ranks of its own{}; {:.0f} bytes a token to the student",
                     r.teacher_layout->size(), why, bytes);
}

}  // namespace wuneng

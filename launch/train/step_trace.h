// StepTrace: a trace of chosen steps over all ranks (run.trace_steps), in the JSON that Perfetto and
// chrome://tracing open, and where each of those steps' time went.
#pragma once
#include <optional>

#include "launch/train/recipe.h"
#include "runtime/trace.h"

namespace wuneng {

// Seconds of a step, by what they were spent on; they add up to the step.
struct StepTimes {
  double compute = 0, communication = 0, waiting = 0, stream = 0, saving = 0, other = 0;

  // Of one thread's events: each span's own time counts for its kind, all time within a span of stream or
  // saving for that, and a step's own time is `other`.
  static StepTimes of(std::vector<trace::Event> events);
  // "0.123 s: compute 71.0%, communication 12.0%, ..."
  std::string text() const;
};

class StepTrace {
 public:
  // Collective over the world where steps are traced: measures how far the ranks' clocks are apart. The file
  // is run.out/trace.json.
  StepTrace(const TrainRecipe& recipe, const Mesh& mesh);

  // Around step `step` (counted from 1) of a rank; on a teacher rank, around the pass that serves it.
  void begin(int64_t step);
  // Collective over this role's ranks where the step is traced. On student ranks returns where the mean
  // rank's time went, as a line; empty where the step is not traced. After the last traced step the file has
  // what student ranks did.
  std::string end(int64_t step);
  // Collective over the world, at the run's end: the file has what all ranks did in the steps that this
  // process has traced.
  void finish();

 private:
  bool traces(int64_t step) const { return first_ <= step && step <= last_; }
  void write(const Comm& ranks) const;

  const Mesh& mesh_;
  std::string path_;
  int64_t first_ = 1, last_ = 0;  // none
  bool traced_ = false;           // any of them, in this process
  int64_t offset_ = 0;            // nanoseconds from this rank's clock to the first rank's
  std::optional<trace::Span> step_;
  std::string events_;  // of this rank, as JSON objects with a comma and a line's end behind each
};

}  // namespace wuneng

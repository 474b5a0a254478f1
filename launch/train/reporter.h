// Reporter: what a run tells of its steps and evaluations, on the one rank that does: the progress line and
// metrics.jsonl.
#pragma once
#include <chrono>
#include <optional>

#include "launch/train/recipe.h"
#include "model/objectives/objective.h"
#include "runtime/metrics.h"

namespace wuneng {

class Reporter {
 public:
  // active: is this the logging rank? The others' calls do nothing.
  Reporter(const TrainRecipe& recipe, bool active, int64_t first_step);

  struct Step {
    int64_t step;  // counted from 1
    std::vector<Metric> metrics;
    double learning_rate, gradient_norm;
    double seconds;  // of the step
    // Seconds, of the student's rank that waited longest: for its micro-batches, and for the teacher's
    // signals (of a colocated teacher, which it computes itself).
    double data_wait, teacher_wait;
    int64_t peak_tensor_bytes, optimizer_bytes;  // optimizer_bytes: of the rank that holds most of its state
    bool skipped;                                // no update: the gradient was not finite
  };
  void step(const Step& step);
  // count: of what the loss is a mean over.
  void evaluation(int64_t step, const std::vector<Metric>& metrics, int64_t count);
  void line(const std::string& text);
  void finish();  // no step or evaluation follows

 private:
  using Clock = std::chrono::steady_clock;
  const TrainRecipe& recipe_;
  int64_t first_step_;
  Clock::time_point start_ = Clock::now();
  Progress progress_;
  std::optional<MetricsFile> file_;
};

}  // namespace wuneng

#include "launch/train/reporter.h"

namespace wuneng {

Reporter::Reporter(const TrainRecipe& recipe, bool active, int64_t first_step)
    : recipe_(recipe), first_step_(first_step), progress_(recipe.log_every) {
  if (active) file_.emplace(recipe.out + "/metrics.jsonl", first_step);
}

void Reporter::step(const Step& s) {
  if (!file_) return;
  const double speed = double(recipe_.tokens_per_step()) / s.seconds,
               elapsed = std::chrono::duration<double>(Clock::now() - start_).count(),
               left = elapsed / double(s.step - first_step_) * double(recipe_.steps() - s.step);
  nlohmann::json json = {{"step", s.step},
                         {"lr", s.learning_rate},
                         {"grad_norm", s.gradient_norm},
                         {"tokens_per_second", speed},
                         {"seconds", s.seconds},
                         {"data_wait", s.data_wait},
                         {"peak_tensor_bytes", s.peak_tensor_bytes},
                         {"optimizer_bytes", s.optimizer_bytes}};
  if (recipe_.has_teacher()) json["teacher_wait"] = s.teacher_wait;
  if (s.skipped) json["skipped"] = true;
  StepReport report{s.step, recipe_.steps(), {}, s.learning_rate, s.gradient_norm, speed, left};
  for (const Metric& m : s.metrics) {
    json[m.name] = m.value;
    if (m.in_progress_line) report.values.emplace_back(m.name, m.value);
  }
  file_->write(json);
  progress_.show(report);
}

void Reporter::evaluation(int64_t step, const std::vector<Metric>& metrics, int64_t count) {
  if (!file_) return;
  const bool pairs = recipe_.objective->mean_over() == MeanOver::pairs;
  nlohmann::json json = {{"step", step}, {pairs ? "held_out_pairs" : "held_out_tokens", count}};
  std::string text = fmt::format("held out at step {}:", step);
  for (const Metric& m : metrics) {
    json["held_out_" + m.name] = m.value;
    text += fmt::format("  {} {:.4f}", m.name, m.value);
  }
  file_->write(json);
  progress_.line(text);
}

void Reporter::finish() {
  if (file_) file_->close();
}

void Reporter::line(const std::string& text) {
  if (file_) progress_.line(text);
}

}  // namespace wuneng

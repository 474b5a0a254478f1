// Output of a run: a progress line for a person at the terminal, one JSON object per step for programs.
#pragma once
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "runtime/file.h"

namespace wuneng {

// Appends one JSON object per line and flushes it, so that a killed run loses none. A resumed run first
// removes the lines of steps that it repeats.
class MetricsFile {
 public:
  MetricsFile(const std::string& path, int64_t first_step);
  void write(const nlohmann::json& line);
  void close();  // syncs it; nothing is written afterwards

 private:
  FileDescriptor out_;
  int64_t end_;
};

struct StepReport {
  int64_t step, steps;
  std::vector<std::pair<std::string, double>> values;  // {"loss", 1.2345}, {"kl", 1.2345}
  double learning_rate, gradient_norm;
  double tokens_per_second;
  double seconds_left;
};

// "step 120/300  loss 1.2345  kl 1.2345  lr 3.00e-04  grad 0.98  12,345 tok/s  0:42 left"
std::string format_report(const StepReport& report);

// On a terminal redraws one line at every step; elsewhere prints a line for the first step, the last step and
// every step that `every` divides.
class Progress {
 public:
  explicit Progress(int64_t every);
  void show(const StepReport& report);
  void line(const std::string& text);  // a line of its own

 private:
  int64_t every_;
  bool terminal_;
  bool open_ = false;
};

}  // namespace wuneng

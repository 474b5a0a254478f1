#include "runtime/metrics.h"

#include <fcntl.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <sstream>

#include "runtime/error.h"
#include "runtime/format.h"

namespace wuneng {

namespace {

// Removes the lines of steps after `first_step`, and one that a killed run left incomplete.
std::string remove_later_lines(const std::string& path, int64_t first_step) {
  if (!std::filesystem::exists(path)) return path;
  std::string kept;
  std::istringstream in(first_step > 0 ? read_file(path) : "");
  for (std::string line; std::getline(in, line);) {
    const auto parsed = nlohmann::json::parse(line, nullptr, false);
    if (parsed.is_object() && parsed.value("step", int64_t{0}) <= first_step) kept += line + "\n";
  }
  write_file_durably(path, kept);
  return path;
}

}  // namespace

MetricsFile::MetricsFile(const std::string& path, int64_t first_step)
    : out_(remove_later_lines(path, first_step), O_WRONLY | O_CREAT), end_(out_.size()) {}

void MetricsFile::write(const nlohmann::json& line) {
  const std::string text = line.dump() + "\n";
  out_.write(end_, text.data(), static_cast<int64_t>(text.size()));
  end_ += static_cast<int64_t>(text.size());
}

void MetricsFile::close() {
  out_.sync();
  out_.close();
}

std::string format_report(const StepReport& r) {
  std::string values;
  for (const auto& [name, value] : r.values) values += fmt::format("  {} {:.4f}", name, value);
  return fmt::format("step {}/{}{}  lr {:.2e}  grad {:.2f}  {} tok/s  {} left", r.step, r.steps, values,
                     r.learning_rate, r.gradient_norm, thousands(std::llround(r.tokens_per_second)),
                     clock_time(r.seconds_left));
}

Progress::Progress(int64_t every) : every_(every), terminal_(stdout_is_terminal()) {}

void Progress::show(const StepReport& report) {
  const bool due = report.step % every_ == 0 || report.step == report.steps || report.step == 1;
  if (terminal_) {
    std::printf("\r\033[K%s", format_report(report).c_str());
    open_ = true;
    if (report.step == report.steps) std::printf("\n"), open_ = false;
  } else if (due) {
    std::printf("%s\n", format_report(report).c_str());
  }
  std::fflush(stdout);
}

void Progress::line(const std::string& text) {
  std::printf("%s%s\n", open_ ? "\n" : "", text.c_str());
  open_ = false;
  std::fflush(stdout);
}

}  // namespace wuneng

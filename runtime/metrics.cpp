#include "runtime/metrics.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "runtime/error.h"
#include "runtime/file.h"

namespace wuneng {

MetricsFile::MetricsFile(const std::string& path, int64_t first_step) {
  if (std::filesystem::exists(path)) {
    std::string kept;
    std::ifstream in(path);
    for (std::string line; first_step > 0 && std::getline(in, line);) {
      const auto parsed =
          nlohmann::json::parse(line, nullptr, false);  // a line that a killed run cut short is dropped
      if (parsed.is_object() && parsed.value("step", int64_t{0}) <= first_step) kept += line + "\n";
    }
    in.close();
    write_file_durably(path, kept);
  }
  out_.open(path, std::ios::app);
  require(out_.good(), "{}: cannot be written", path);
}

void MetricsFile::write(const nlohmann::json& line) {
  out_ << line.dump() << '\n';
  out_.flush();
  require(out_.good(), "metrics file: cannot be written (disk full?)");
}

std::string format_report(const StepReport& r) {
  const auto seconds = static_cast<int64_t>(r.seconds_left + 0.5);
  const std::string left =
      seconds >= 3600 ? fmt::format("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
                      : fmt::format("{}:{:02}", seconds / 60, seconds % 60);
  std::string speed = fmt::format("{:.0f}", r.tokens_per_second);
  for (int at = static_cast<int>(speed.size()) - 3; at > 0; at -= 3) speed.insert(at, ",");
  return fmt::format("step {}/{}  loss {:.4f}{}  lr {:.2e}  grad {:.2f}  {} tok/s  {} left", r.step, r.steps,
                     r.loss, r.shows_kl ? fmt::format("  kl {:.4f}", r.kl) : "", r.learning_rate,
                     r.gradient_norm, speed, left);
}

// mpirun gives every rank a terminal of its own, whatever stands behind mpirun; launch/mpi.sh says what does.
Progress::Progress(int64_t every) : every_(every) {
  const char* said = std::getenv("WUNENG_TERMINAL");
  terminal_ = said ? *said == '1' : !std::getenv("OMPI_COMM_WORLD_SIZE") && isatty(STDOUT_FILENO);
}

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

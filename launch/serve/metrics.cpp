#include "launch/serve/metrics.h"

#include <fmt/format.h>

namespace wuneng::serving {
namespace {

std::string heading(const char* name, const char* type, const char* help) {
  return fmt::format("# HELP wuneng_{0} {1}\n# TYPE wuneng_{0} {2}\n", name, help, type);
}

std::string value(const char* name, const char* type, const char* help, int64_t value) {
  return heading(name, type, help) + fmt::format("wuneng_{} {}\n", name, value);
}

}  // namespace

void Durations::add(double seconds) {
  const std::lock_guard lock(mutex_);
  ++count_;
  sum_ += seconds;
}

std::string Durations::text(const char* name, const char* help) const {
  const std::lock_guard lock(mutex_);
  return heading(name, "summary", help) +
         fmt::format("wuneng_{0}_sum {1:.6f}\nwuneng_{0}_count {2}\n", name, sum_, count_);
}

void Metrics::count_answer(int status) {
  const std::lock_guard lock(mutex_);
  ++answers_[status];
}

std::string Metrics::text() const {
  std::string out =
      value("connections", "gauge", "Open connections.", connections) +
      value("connections_total", "counter", "Connections so far.", all_connections) +
      value("sequences_waiting", "gauge", "Sequences without a token yet.", waiting) +
      value("sequences_running", "gauge", "Sequences that have a token.", running) +
      value("prompt_tokens_total", "counter", "Tokens of prompts.", prompt_tokens) +
      value("generated_tokens_total", "counter", "Tokens generated.", generated_tokens) +
      value("abandoned_total", "counter", "Requests whose client left or did not read.", abandoned) +
      first_token.text("first_token_seconds", "From a request to its first token.") +
      request.text("request_seconds", "From a request for completions to its answer's end.");
  out += heading("answers_total", "counter", "Answers, by HTTP status.");
  const std::lock_guard lock(mutex_);
  for (const auto& [status, count] : answers_)
    out += fmt::format("wuneng_answers_total{{status=\"{}\"}} {}\n", status, count);
  return out;
}

}  // namespace wuneng::serving

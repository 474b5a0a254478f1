// Metrics of the server, in Prometheus's text format. Any thread may count.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace wuneng::serving {

// How often something took how long.
class Durations {
 public:
  void add(double seconds);
  std::string text(const char* name, const char* help) const;

 private:
  mutable std::mutex mutex_;
  int64_t count_ = 0;
  double sum_ = 0;
};

struct Metrics {
  std::atomic<int64_t> connections = 0, all_connections = 0;
  std::atomic<int64_t> waiting = 0, running = 0;  // sequences before and after their first event
  std::atomic<int64_t> prompt_tokens = 0, generated_tokens = 0;
  std::atomic<int64_t> abandoned = 0;  // requests whose client went away or did not read
  Durations first_token, request;

  void count_answer(int status);
  std::string text() const;

 private:
  mutable std::mutex mutex_;
  std::map<int, int64_t> answers_;  // by status
};

}  // namespace wuneng::serving

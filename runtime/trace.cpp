#include "runtime/trace.h"

#include <atomic>
#include <chrono>
#include <mutex>
#include <utility>

namespace wuneng::trace {
namespace {

std::atomic<bool> g_recording = false;
std::atomic<int> g_threads = 0;
std::mutex g_mutex;
std::vector<Event> g_events;

int this_thread() {
  thread_local const int number = g_threads++;
  return number;
}

}  // namespace

const char* to_string(Kind kind) {
  constexpr const char* names[] = {"step", "compute", "communication", "waiting", "stream", "saving"};
  return names[static_cast<int>(kind)];
}

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void record(bool on) {
  this_thread();
  g_recording = on;
}

bool recording() { return g_recording.load(std::memory_order_relaxed); }

void add(std::string name, Kind kind, int64_t begin) {
  Event event{std::move(name), kind, this_thread(), begin, now()};
  const std::lock_guard lock(g_mutex);
  g_events.push_back(std::move(event));
}

std::vector<Event> take() {
  const std::lock_guard lock(g_mutex);
  return std::exchange(g_events, {});
}

}  // namespace wuneng::trace

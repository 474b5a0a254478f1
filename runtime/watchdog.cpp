#include "runtime/watchdog.h"

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/error.h"

namespace wuneng::watchdog {
namespace {

using Clock = std::chrono::steady_clock;

struct Call {
  std::string text;
  Clock::time_point since;
};

struct State {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Call> open;
  std::deque<std::string> trace;  // the last calls that ended
  double timeout = 600;
  bool running = false;
  std::thread thread;
};

State& state() {
  static State value;
  return value;
}

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// Called with the mutex held.
void report(const State& s, const Call& call) {
  std::string text =
      fmt::format("wuneng: hang: {} has waited {:.0f} s in {}\n",
                  rank_name().empty() ? "this rank" : rank_name(), seconds_since(call.since), call.text);
  for (const std::string& before : s.trace) text += "  before that: " + before + "\n";
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
}

void watch(void (*end_run)()) {
  State& s = state();
  std::unique_lock lock(s.mutex);
  while (s.running) {
    s.changed.wait_for(lock, std::chrono::milliseconds(200));
    if (!s.running) return;
    if (s.open.empty() || s.timeout <= 0 || seconds_since(s.open.back().since) < s.timeout) continue;
    report(s, s.open.back());
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::seconds(2));  // the others are stuck as well: let each say where
    end_run();
    std::this_thread::sleep_for(std::chrono::seconds(5));
    _exit(86);  // MPI itself hangs
  }
}

}  // namespace

void start(void (*end_run)()) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (const char* text = std::getenv("WUNENG_HANG_TIMEOUT")) s.timeout = std::atof(text);
  s.running = true;
  s.thread = std::thread(watch, end_run);
}

void stop() {
  State& s = state();
  {
    std::lock_guard lock(s.mutex);
    if (!s.running) return;
    s.running = false;
  }
  s.changed.notify_all();
  s.thread.join();
}

void set_timeout(double seconds) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.timeout = seconds;
}

Waiting::Waiting(std::string text) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.open.push_back({std::move(text), Clock::now()});
}

Waiting::~Waiting() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.trace.push_back(std::move(s.open.back().text));
  s.open.pop_back();
  if (s.trace.size() > 5) s.trace.pop_front();
}

}  // namespace wuneng::watchdog

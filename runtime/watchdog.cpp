#include "runtime/watchdog.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "runtime/error.h"

namespace wuneng::watchdog {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollInterval = std::chrono::milliseconds(200);
constexpr auto kGrace = std::chrono::seconds(2);  // lets the other ranks, which hang too, print their reports
constexpr unsigned kKillSeconds = 7;              // seconds from the report to SIGALRM, grace period included
constexpr size_t kTrace = 5;

struct Call {
  std::string text;
  Clock::time_point since;
};

struct State {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<int64_t, Call> open;   // by id, the oldest first
  std::deque<std::string> trace;  // the last calls that ended
  int64_t next_id = 0;
  double timeout = 600;
  bool from_environment = false, running = false;
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
                  rank_name().empty() ? "this process" : rank_name(), seconds_since(call.since), call.text);
  for (const std::string& before : s.trace) text += "  before that: " + before + "\n";
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
}

// What follows may hang too (a full pipe, MPI's locks). The alarm signal then kills this process, and the
// launcher ends the other ranks.
void arm_alarm() {
  signal(SIGALRM, SIG_DFL);
  sigset_t alarm_only;
  sigemptyset(&alarm_only);
  sigaddset(&alarm_only, SIGALRM);
  pthread_sigmask(SIG_UNBLOCK, &alarm_only, nullptr);
  alarm(kKillSeconds);
}

void watch(void (*end_run)()) {
  State& s = state();
  std::unique_lock lock(s.mutex);
  while (s.running) {
    s.changed.wait_for(lock, kPollInterval);
    if (!s.running) return;
    if (s.open.empty() || s.timeout <= 0) continue;
    const Call& oldest = s.open.begin()->second;
    if (seconds_since(oldest.since) < s.timeout) continue;
    arm_alarm();
    report(s, oldest);
    lock.unlock();
    std::this_thread::sleep_for(kGrace);
    return end_run();
  }
}

}  // namespace

void read_environment() {
  const char* text = std::getenv("WUNENG_HANG_TIMEOUT");
  if (!text) return;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  require(end != text && *end == 0 && seconds >= 0,
          "WUNENG_HANG_TIMEOUT: expected seconds (0: never), found '{}'", text);
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.timeout = seconds;
  s.from_environment = true;
}

void set_timeout(double seconds) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (!s.from_environment) s.timeout = seconds;
}

void start(void (*end_run)()) {
  State& s = state();
  std::lock_guard lock(s.mutex);
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

Waiting::Waiting(std::string text) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  id_ = s.next_id++;
  s.open.emplace(id_, Call{std::move(text), Clock::now()});
}

Waiting::~Waiting() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  const auto call = s.open.find(id_);
  s.trace.push_back(std::move(call->second.text));
  s.open.erase(call);
  if (s.trace.size() > kTrace) s.trace.pop_front();
}

}  // namespace wuneng::watchdog

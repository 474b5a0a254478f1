#include "runtime/watchdog.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "runtime/error.h"
#include "runtime/launcher.h"
#include "runtime/trace.h"

namespace wuneng::watchdog {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollInterval = std::chrono::milliseconds(100);
constexpr double kLongestTick = 2;  // seconds between two polls; longer: the process was stopped meanwhile
constexpr size_t kTrace = 5;

struct Call {
  std::string text;
  std::span<const int> peers;
  double since;         // by seconds_awake()
  int64_t trace_begin;  // by trace::now(); 0: not recorded
};

struct State {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<int64_t, Call> open;   // by id, the oldest first
  std::deque<std::string> trace;  // the last calls that ended
  double ended = 0;               // when the last one did
  int64_t next_id = 0;
  double timeout = 600;
  bool from_environment = false, running = false;
  std::string place;
  int micro_batch = -1;
  double awake = 0;  // seconds, at the last poll
  Clock::time_point polled = Clock::now();
  std::thread thread;
};

State& state() {
  static State value;
  return value;
}

// These are called with the mutex held.
double awake(const State& s) {
  return s.awake + std::min(kLongestTick, std::chrono::duration<double>(Clock::now() - s.polled).count());
}

void poll_clock(State& s) {
  s.awake = awake(s);
  s.polled = Clock::now();
}

// Of a wait: for this rank's device, in a collective call, or for a message.
trace::Kind kind_of(std::span<const int> peers) {
  if (peers.empty()) return trace::Kind::compute;
  const bool collective = std::find(peers.begin(), peers.end(), std::max(0, launcher::rank())) != peers.end();
  return collective ? trace::Kind::communication : trace::Kind::waiting;
}

std::string own_report(const State& s, const Call& call) {
  const std::string name = rank_name();
  std::string text = fmt::format("wuneng: hang: {} has waited {:.0f} s in {}\n",
                                 name.empty() ? "this process" : name, awake(s) - call.since, call.text);
  for (auto before = s.trace.rbegin(); before != s.trace.rend(); ++before)
    text += "  before that: " + *before + "\n";
  return text;
}

void watch(void (*on_hang)(const std::string&)) {
  State& s = state();
  std::unique_lock lock(s.mutex);
  while (s.running) {
    s.changed.wait_for(lock, kPollInterval);
    poll_clock(s);
    if (!s.running) return;
    if (s.open.empty() || s.timeout <= 0) continue;
    const Call& oldest = s.open.begin()->second;
    if (awake(s) - oldest.since < s.timeout) continue;
    const std::string report = own_report(s, oldest);
    lock.unlock();
    return on_hang(report);
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

double timeout() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  return s.timeout;
}

void start(void (*on_hang)(const std::string& report)) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.running = true;
  s.polled = Clock::now();
  s.thread = std::thread(watch, on_hang);
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

void kill_in(double seconds) {
  static timer_t timer = [] {
    sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGKILL;
    timer_t made = {};
    require(timer_create(CLOCK_MONOTONIC, &event, &made) == 0, "timer_create: {}", std::strerror(errno));
    return made;
  }();
  itimerspec at = {};
  at.it_value.tv_sec = static_cast<time_t>(seconds);
  at.it_value.tv_nsec = static_cast<long>((seconds - static_cast<double>(at.it_value.tv_sec)) * 1e9);
  require(timer_settime(timer, 0, &at, nullptr) == 0, "timer_settime: {}", std::strerror(errno));
}

void enter(std::string place) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.place = std::move(place);
  s.micro_batch = -1;
}

void at_micro_batch(int micro_batch) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.micro_batch = micro_batch;
}

RankState snapshot() {
  RankState out;
  out.rank = std::max(0, launcher::rank());
  out.name = rank_name();
  out.pid = getpid();
  State& s = state();
  std::lock_guard lock(s.mutex);
  out.place = s.place + (s.micro_batch < 0 ? "" : fmt::format(", micro-batch {}", s.micro_batch));
  if (s.open.empty()) {
    out.kind = RankState::Kind::working;
    out.seconds = awake(s) - s.ended;
    if (!s.trace.empty()) out.call = s.trace.back();
  } else {
    const Call& oldest = s.open.begin()->second;
    out.kind = RankState::Kind::waiting;
    out.seconds = awake(s) - oldest.since;
    out.call = oldest.text;
    out.peers.assign(oldest.peers.begin(), oldest.peers.end());
  }
  return out;
}

double seconds_awake() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  return awake(s);
}

Waiting::Waiting(std::string text, std::span<const int> peers) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  id_ = s.next_id++;
  s.open.emplace(id_, Call{std::move(text), peers, awake(s), trace::recording() ? trace::now() : 0});
}

Waiting::~Waiting() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  const auto call = s.open.find(id_);
  if (call->second.trace_begin > 0 && trace::recording())
    trace::add(call->second.text, kind_of(call->second.peers), call->second.trace_begin);
  s.trace.push_back(std::move(call->second.text));
  s.open.erase(call);
  s.ended = awake(s);
  if (s.trace.size() > kTrace) s.trace.pop_front();
}

}  // namespace wuneng::watchdog

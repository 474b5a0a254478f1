#include "runtime/signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace wuneng::signals {
namespace {

constexpr int64_t kOneRequest = 200'000'000;  // ns: a launcher and a shell may both deliver one request
constexpr int kCaught[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};

std::atomic<int> g_first = 0;
std::atomic<int64_t> g_since = 0;
std::atomic<bool> g_announce = false, g_of_mpirun = false;
static_assert(std::atomic<int64_t>::is_always_lock_free);

int64_t nanoseconds() {
  timespec t = {};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

void say(const char* text) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
}

// Calls only what a signal handler may call.
void on_signal(int signal, siginfo_t* info, void*) {
  int none = 0;
  if (g_first.compare_exchange_strong(none, signal)) {
    g_since = nanoseconds();
    if (!g_announce) return;
    say("wuneng: ");
    say(name(signal));
    say(g_of_mpirun && signal == SIGTERM && info->si_pid == getppid()
            ? " of mpirun, which kills its ranks one second later: the run saves only if its step ends "
              "before; "
              "SIGUSR1 to mpirun leaves it the time\n"
            : ": the run saves after the step under way and ends with exit code 75; a second signal ends it "
              "at "
              "once\n");
  } else if (const int64_t since = g_since; since != 0 && nanoseconds() - since > kOneRequest) {
    ::signal(signal, SIG_DFL);
    raise(signal);  // delivered when this handler returns
  }
}

}  // namespace

void catch_stops(bool announce) {
  static_assert(kStopped == 75);  // on_signal's text
  g_announce = announce;
  g_of_mpirun = std::getenv("OMPI_COMM_WORLD_RANK") && !std::getenv("SLURM_STEP_TASKS_PER_NODE");
  sigset_t ours;
  sigemptyset(&ours);
  for (const int signal : kCaught) sigaddset(&ours, signal);
  pthread_sigmask(SIG_BLOCK, &ours, nullptr);  // here, and in every thread that is started later but one
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  for (const int signal : kCaught) {
    struct sigaction before = {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
  std::thread([ours] {
    pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);
    while (true) pause();
  }).detach();
}

int stop_requested() { return g_first; }

const char* name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGHUP:
      return "SIGHUP";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    default:
      return "a signal";
  }
}

}  // namespace wuneng::signals

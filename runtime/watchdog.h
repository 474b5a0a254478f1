// Watchdog: detects hangs. A thread that knows which call this rank waits in and since when; if a call takes
// longer than the hang timeout, it has the run reported on and ended. Time during which this process was
// stopped as a whole (a suspended job) does not count.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "runtime/hang_report.h"

namespace wuneng::watchdog {

constexpr int kHung = 86;  // exit code of a run that the watchdog ended

// Reads WUNENG_HANG_TIMEOUT (seconds, 0: never); fails if it is not a number. It overrides set_timeout(), so
// that a run can be bounded without editing its recipe.
void read_environment();
void set_timeout(double seconds);
double timeout();

// on_hang: called once, from the watchdog's thread, with this rank's own report; it ends the run.
void start(void (*on_hang)(const std::string& report));
void stop();

// The kernel kills this process after so many seconds, even if it is stopped or waits in a system call; 0:
// never. For what must end soon.
void kill_in(double seconds);

// Where the run is, for reports: "step 12". Also ends the micro-batch.
void enter(std::string place);
void at_micro_batch(int micro_batch);

// This rank's state, of kind waiting or working, and the seconds by which it is measured. Any thread may ask.
RankState snapshot();
double seconds_awake();

// Marks, while it lives, that this rank waits in the call that `text` describes for `peers`, which must live
// as long: world ranks, with this one in a collective call; none: it waits for its own device.
class Waiting {
 public:
  explicit Waiting(std::string text, std::span<const int> peers = {});
  ~Waiting();
  Waiting(const Waiting&) = delete;

 private:
  int64_t id_;
};

}  // namespace wuneng::watchdog

// Watchdog: detects hangs. A thread that records which call this rank is in and since when; if a call takes
// longer than the hang timeout, it prints the rank's name, the call and the calls before it, and ends the
// run.
#pragma once
#include <cstdint>
#include <string>

namespace wuneng::watchdog {

constexpr int kHung = 86;  // exit code of a run that the watchdog ended

// Reads WUNENG_HANG_TIMEOUT (seconds, 0: never); fails if it is not a number. It overrides set_timeout(), so
// that a run can be bounded without editing its recipe.
void read_environment();
void set_timeout(double seconds);

void start(void (*end_run)());  // end_run ends all ranks; called from the watchdog's thread
void stop();

// Marks, while it lives, that this rank waits in the call that `text` describes.
class Waiting {
 public:
  explicit Waiting(std::string text);
  ~Waiting();
  Waiting(const Waiting&) = delete;

 private:
  int64_t id_;
};

}  // namespace wuneng::watchdog

// Watchdog: no hang without a message. A thread that knows which call this rank is in and since when; a call
// that takes longer than the hang timeout is printed with the rank's name and the calls before it, and the
// run is ended.
#pragma once
#include <cstdint>
#include <string>

namespace wuneng::watchdog {

constexpr int kHung = 86;  // exit code of a run that the watchdog ended

// WUNENG_HANG_TIMEOUT in seconds, 0: never; fails where it is no number. It wins over set_timeout(), so that
// whoever starts a run can bound it without editing its recipe.
void read_environment();
void set_timeout(double seconds);

void start(void (*end_run)());  // end_run ends all ranks; called from the watchdog's thread
void stop();

// While it lives, this rank waits in the call that `text` describes.
class Waiting {
 public:
  explicit Waiting(std::string text);
  ~Waiting();
  Waiting(const Waiting&) = delete;

 private:
  int64_t id_;
};

}  // namespace wuneng::watchdog

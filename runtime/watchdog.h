// Watchdog: no hang without a message. A thread that knows which call this rank is in and since when; a call
// that takes longer than the hang timeout is printed with the rank's name and the calls before it, and the
// run is ended.
#pragma once
#include <string>

namespace wuneng::watchdog {

void start(void (*end_run)());  // end_run aborts all ranks; called from the watchdog's thread
void stop();
void set_timeout(double seconds);  // 0: never

// While it lives, this rank waits in the call that `text` describes. Nests: the innermost counts.
class Waiting {
 public:
  explicit Waiting(std::string text);
  ~Waiting();
  Waiting(const Waiting&) = delete;
};

}  // namespace wuneng::watchdog

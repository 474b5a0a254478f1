// What a hang report says: pure functions of what the ranks tell of themselves (heartbeat.h).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace wuneng {

struct RankState {
  enum class Kind {
    absent,   // has not been heard of
    silent,   // does not answer
    gone,     // its connection has closed: it has ended or died
    waiting,  // in a call that waits for others
    working   // in no such call
  };
  int rank = 0;
  Kind kind = Kind::absent;
  double seconds = 0;  // waiting: in the call; working: since its last call; else since it was last heard
  std::string name;    // "rank 3 (student dp0 pp1 tp0)"
  std::string host;
  int64_t pid = 0;
  std::string place;       // "step 12, micro-batch 3"
  std::string call;        // waiting: that it is in; else its last one; with "(world ranks ..), call N"
  std::vector<int> peers;  // the world ranks that the call needs, this one among them in a collective call
  bool stopped = false;    // silent: the process is known to be stopped (SIGSTOP)
};

// "0-7,9": a sorted list as ranges.
std::string to_ranges(std::span<const int> sorted);
std::vector<int> from_ranges(const std::string& text);

// Who waits for whom in which call, and first the ranks that others wait for and that wait for nobody
// themselves. At most some twenty lines, whatever the number of ranks. `ranks`: all of them, by rank.
std::string hang_report(const std::vector<RankState>& ranks);

}  // namespace wuneng

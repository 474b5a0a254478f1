// Trace: what this rank's threads do and when, while it is recorded. Spans of a thread nest.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace wuneng::trace {

// What a span's time is spent on. Of spans in each other the inner one counts, except within stream and
// saving.
enum class Kind { step, compute, communication, waiting, stream, saving };
const char* to_string(Kind kind);

struct Event {
  std::string name;
  Kind kind;
  int thread;          // 0: the one that began the recording
  int64_t begin, end;  // by now()
};

int64_t now();  // nanoseconds of a clock that only this host's processes share
void record(bool on);
bool recording();
// A span that has ended, of this thread.
void add(std::string name, Kind kind, int64_t begin);
// Those recorded since the last call, by their ends.
std::vector<Event> take();

// Lasts from its construction to its destruction. Costs nothing but the name while nothing is recorded.
class Span {
 public:
  Span(Kind kind, std::string name) : kind_(kind), begin_(recording() ? now() : 0) {
    if (begin_ > 0) name_ = std::move(name);
  }
  ~Span() {
    if (begin_ > 0 && recording()) add(std::move(name_), kind_, begin_);
  }
  Span(const Span&) = delete;

 private:
  Kind kind_;
  int64_t begin_;  // 0: not recorded
  std::string name_;
};

}  // namespace wuneng::trace

#include "parallel/schedule.h"

#include <algorithm>
#include <map>
#include <set>

#include "runtime/error.h"

namespace wuneng {
namespace {

void add_forward(Schedule& out, int stages, int stage, int m) {
  if (stage > 0) out.push_back({Action::receive_activation, m});
  out.push_back({Action::forward, m});
  if (stage < stages - 1) out.push_back({Action::send_activation, m});
}

void add_backward(Schedule& out, int stages, int stage, int m) {
  if (stage < stages - 1) out.push_back({Action::receive_gradient, m});
  out.push_back({Action::backward, m});
  if (stage > 0) out.push_back({Action::send_gradient, m});
}

void require_sensible(int stages, int stage, int micro_batches) {
  require(stage >= 0 && stage < stages && micro_batches >= 0,
          "pipeline schedule: stage {} of {} with {} micro-batches: expected 0 <= stage < stages, "
          "micro-batches >= 0",
          stage, stages, micro_batches);
}

// All stages side by side. A stage moves until it waits for a message; when none moves, either all are done
// or the schedules are wrong.
class Simulation {
 public:
  Simulation(const std::vector<Schedule>& schedules, int micro_batches, bool trains)
      : schedules_(schedules),
        stages_(static_cast<int>(schedules.size())),
        micro_batches_(micro_batches),
        trains_(trains),
        at_(stages_) {}

  void run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int s = 0; s < stages_; ++s)
        while (!finished(s) && step(s)) moved = true;
    }
    require_no_deadlock();
    require_complete();
  }

 private:
  struct Progress {
    size_t next = 0;
    int live = 0;
    std::map<Action::Kind, std::set<int>> done;  // micro-batches, by kind
    bool has(Action::Kind kind, int m) const {
      const auto found = done.find(kind);
      return found != done.end() && found->second.count(m);
    }
  };
  // A message on its way: to a stage, of a kind that the receiver names, for a micro-batch; and the sender's
  // action.
  struct Address {
    int to;
    Action::Kind received_as;
    int micro_batch;
    auto operator<=>(const Address&) const = default;
  };

  bool finished(int s) const { return at_[s].next == schedules_[s].size(); }

  [[noreturn]] void wrong(int s, size_t index, const std::string& why) const {
    fail("pipeline schedule, stage {}, action {} ({}): {}", s, index, to_string(schedules_[s][index]), why);
  }

  // Takes stage s one action further; false where it has to wait for a message.
  bool step(int s) {
    Progress& p = at_[s];
    const auto [kind, m] = schedules_[s][p.next];
    const auto expect = [&](bool condition, const std::string& why) {
      if (!condition) wrong(s, p.next, why);
    };
    expect(m >= 0 && m < micro_batches_, fmt::format("no such micro-batch among {}", micro_batches_));
    const bool backwards =
        kind == Action::receive_gradient || kind == Action::backward || kind == Action::send_gradient;
    expect(trains_ || !backwards, "nothing goes backward in a schedule of forwards");
    expect(!p.has(kind, m), "a second time");
    switch (kind) {
      case Action::receive_activation:
      case Action::receive_gradient:
        if (!messages_.erase({s, kind, m})) return false;
        break;
      case Action::forward:
        expect(s == 0 || p.has(Action::receive_activation, m), "its activation has not been received");
        if (trains_) {
          const int most = std::min(stages_ - s, micro_batches_);
          ++p.live;
          expect(p.live <= most, fmt::format("{} micro-batches held, expected at most {}", p.live, most));
        }
        break;
      case Action::send_activation:
        expect(s < stages_ - 1, "the last stage has nobody to send to");
        expect(p.has(Action::forward, m), "before its forward");
        messages_[{s + 1, Action::receive_activation, m}] = p.next;
        break;
      case Action::backward:
        expect(p.has(Action::forward, m), "before its forward");
        expect(s == stages_ - 1 || p.has(Action::receive_gradient, m), "its gradient has not been received");
        --p.live;
        break;
      case Action::send_gradient:
        expect(s > 0, "the first stage has nobody to send to");
        expect(p.has(Action::backward, m), "before its backward");
        messages_[{s - 1, Action::receive_gradient, m}] = p.next;
        break;
    }
    p.done[kind].insert(m);
    ++p.next;
    return true;
  }

  // Every stage that is not finished waits. The cause, where there is one, is a message that nobody sends;
  // else stages wait for each other in a circle.
  void require_no_deadlock() const {
    std::string circle;
    int first = -1;
    for (int s = 0; s < stages_; ++s) {
      if (finished(s)) continue;
      const Action a = schedules_[s][at_[s].next];
      const bool gradient = a.kind == Action::receive_gradient;
      const int peer = gradient ? s + 1 : s - 1;
      if (peer < 0 || peer == stages_) wrong(s, at_[s].next, "there is no such stage to receive from");
      const Schedule& other = schedules_[peer];
      const Action wanted = {gradient ? Action::send_gradient : Action::send_activation, a.micro_batch};
      if (std::find(other.begin() + at_[peer].next, other.end(), wanted) == other.end())
        wrong(s, at_[s].next, fmt::format("stage {} never sends it", peer));
      circle += fmt::format("{}stage {} at action {} ({}) waits for stage {}", first < 0 ? "" : ", ", s,
                            at_[s].next, to_string(a), peer);
      if (first < 0) first = s;
    }
    if (first >= 0) wrong(first, at_[first].next, "deadlock: " + circle);
  }

  void require_complete() const {
    for (const auto& [address, index] : messages_)
      wrong(address.received_as == Action::receive_gradient ? address.to + 1 : address.to - 1, index,
            fmt::format("stage {} never receives it", address.to));
    for (int s = 0; s < stages_; ++s)
      for (const Action::Kind kind : {Action::forward, Action::backward})
        for (int m = 0; m < micro_batches_ && (trains_ || kind == Action::forward); ++m)
          require(at_[s].has(kind, m),
                  "pipeline schedule, stage {}, after all {} actions: expected {}, found none", s,
                  schedules_[s].size(), to_string(Action{kind, m}));
  }

  const std::vector<Schedule>& schedules_;
  const int stages_, micro_batches_;
  const bool trains_;
  std::vector<Progress> at_;
  std::map<Address, size_t> messages_;
};

}  // namespace

std::string to_string(const Action& action) {
  constexpr const char* names[] = {"receive_activation", "forward",  "send_activation",
                                   "receive_gradient",   "backward", "send_gradient"};
  return fmt::format("{} {}", names[action.kind], action.micro_batch);
}

Schedule one_f_one_b(int stages, int stage, int micro_batches) {
  require_sensible(stages, stage, micro_batches);
  Schedule out;
  const int ahead = std::min(stages - stage - 1, micro_batches);
  for (int m = 0; m < ahead; ++m) add_forward(out, stages, stage, m);
  for (int m = 0; m < micro_batches; ++m) {
    if (m + ahead < micro_batches) add_forward(out, stages, stage, m + ahead);
    add_backward(out, stages, stage, m);
  }
  return out;
}

Schedule forward_only(int stages, int stage, int micro_batches) {
  require_sensible(stages, stage, micro_batches);
  Schedule out;
  for (int m = 0; m < micro_batches; ++m) add_forward(out, stages, stage, m);
  return out;
}

int last_backward(const Schedule& schedule) {
  const auto found = std::find_if(schedule.rbegin(), schedule.rend(),
                                  [](const Action& a) { return a.kind == Action::backward; });
  return found == schedule.rend() ? -1 : found->micro_batch;
}

void validate(const std::vector<Schedule>& stages, int micro_batches, bool trains) {
  Simulation(stages, micro_batches, trains).run();
}

}  // namespace wuneng

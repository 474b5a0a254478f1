#include "parallel/schedule_validator.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>

#include "runtime/error.h"

namespace wuneng {
namespace {

bool receives(Action::Kind kind) {
  return kind == Action::receive_activation || kind == Action::receive_gradient;
}

Action::Kind other_end(Action::Kind message) {
  switch (message) {
    case Action::receive_activation:
      return Action::send_activation;
    case Action::send_activation:
      return Action::receive_activation;
    case Action::receive_gradient:
      return Action::send_gradient;
    default:
      return Action::receive_gradient;
  }
}

// All stages side by side. A stage moves until it waits for a message; when none moves, either all are done
// or the schedules are wrong.
class Simulation {
 public:
  Simulation(const PipelineSchedule& schedule, const VirtualStages& on, int micro_batches,
             const std::vector<Schedule>& stages)
      : schedule_(schedule),
        on_(on),
        micro_batches_(micro_batches),
        stages_(stages),
        progress_(stages.size()) {
    require(static_cast<int>(stages.size()) == on.stages,
            "pipeline schedule {}: expected the actions of {} stages, found {}", schedule.name, on.stages,
            stages.size());
  }

  void run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int s = 0; s < on_.stages; ++s)
        while (!finished(s) && step(s)) moved = true;
    }
    require_no_deadlock();
    require_complete();
  }

 private:
  struct Progress {
    size_t next = 0;
    int held = 0;
    std::set<Action> done;
  };
  struct Message {
    Action received_as;
    size_t sent_at;  // the index of the sender's action
  };

  struct Channel {
    int from, to;
    Action::Kind received_as;
    auto operator<=>(const Channel&) const = default;
  };

  bool finished(int s) const { return progress_[s].next == stages_[s].size(); }

  [[noreturn]] void wrong(int s, size_t index, const std::string& why) const {
    fail("pipeline schedule, stage {}, action {} ({}): {}", s, index, to_string(stages_[s][index]), why);
  }

  // The other end of a message of stage s: as that stage names it.
  struct End {
    int stage;
    Action action;
  };
  End other_end_of(int s, const Action& a) const {
    const int v = on_.at(s, a.chunk) + (a.with_next() ? 1 : -1);
    const size_t index = progress_[s].next;
    if (v < 0 || v == on_.count())
      wrong(s, index,
            receives(a.kind) ? "there is no such stage to receive from"
                             : fmt::format("the {} stage has nobody to send to", v < 0 ? "first" : "last"));
    if (on_.stage_of(v) == s)
      wrong(s, index, fmt::format("chunk {} is on the same stage: expected no message", on_.chunk_of(v)));
    return {on_.stage_of(v), {other_end(a.kind), a.micro_batch, on_.chunk_of(v)}};
  }

  // Takes stage s one action further; false where it has to wait for a message.
  bool step(int s) {
    Progress& p = progress_[s];
    const Action a = stages_[s][p.next];
    const Action::Kind kind = a.kind;
    const int m = a.micro_batch, chunk = a.chunk;
    const auto expect = [&](bool condition, const std::string& why) {
      if (!condition) wrong(s, p.next, why);
    };
    const auto has = [&](Action::Kind k) { return p.done.count({k, m, chunk}) > 0; };
    expect(m >= 0 && m < micro_batches_, fmt::format("no such micro-batch among {}", micro_batches_));
    expect(chunk >= 0 && chunk < on_.chunks, fmt::format("no such chunk among {}", on_.chunks));
    expect(schedule_.trains || kind == Action::receive_activation || kind == Action::forward ||
               kind == Action::send_activation,
           "nothing goes backward in a schedule of forwards");
    expect(!has(kind), "a second time");
    switch (kind) {
      case Action::receive_activation:
      case Action::receive_gradient:
        if (!receive(s, a)) return false;
        break;
      case Action::send_activation:
      case Action::send_gradient: {
        const End to = other_end_of(s, a);
        if (kind == Action::send_activation)
          expect(has(Action::forward), "before its forward");
        else
          expect(has(Action::backward) || has(Action::backward_input),
                 "before its backward or backward_input");
        messages_[{s, to.stage, to.action.kind}].push_back({to.action, p.next});
        break;
      }
      case Action::forward:
        expect_input(s, a);
        if (schedule_.trains) {
          const int most = schedule_.most_held(on_, s, micro_batches_);
          ++p.held;
          expect(p.held <= most, fmt::format("{} micro-batches held, expected at most {}", p.held, most));
        }
        break;
      case Action::backward:
      case Action::backward_input:
        expect(has(Action::forward), "before its forward");
        expect(kind == Action::backward_input || !has(Action::backward_input), "after its backward_input");
        expect(kind == Action::backward || !has(Action::backward), "after its whole backward");
        expect_gradient(s, a);
        break;
      case Action::backward_weight:
        expect(!has(Action::backward), "after its whole backward");
        expect(has(Action::backward_input), "before its backward_input");
        break;
    }
    if (a.completes_gradients()) --p.held;
    p.done.insert(a);
    ++p.next;
    return true;
  }

  bool receive(int s, const Action& a) {
    const End from = other_end_of(s, a);
    std::deque<Message>& sent = messages_[{from.stage, s, a.kind}];
    const auto found = std::find_if(sent.begin(), sent.end(),
                                    [&](const Message& message) { return message.received_as == a; });
    if (found == sent.end()) return false;
    if (found != sent.begin())
      wrong(s, progress_[s].next,
            fmt::format("out of order: stage {} sent {} (its action {}) earlier", from.stage,
                        to_string(stages_[from.stage][sent.front().sent_at]), sent.front().sent_at));
    sent.pop_front();
    return true;
  }

  // A forward's hidden state: received, or made by another chunk of this stage.
  void expect_input(int s, const Action& a) const {
    const Progress& p = progress_[s];
    const int previous = on_.at(s, a.chunk) - 1;
    if (previous < 0) return;
    if (on_.stage_of(previous) != s) {
      if (!p.done.count({Action::receive_activation, a.micro_batch, a.chunk}))
        wrong(s, p.next, "its activation has not been received");
      return;
    }
    const Action needed{Action::forward, a.micro_batch, on_.chunk_of(previous)};
    if (!p.done.count(needed)) wrong(s, p.next, fmt::format("before {}", to_string(needed)));
  }

  // A backward's gradient, likewise.
  void expect_gradient(int s, const Action& a) const {
    const Progress& p = progress_[s];
    const int next = on_.at(s, a.chunk) + 1;
    if (next == on_.count()) return;
    if (on_.stage_of(next) != s) {
      if (!p.done.count({Action::receive_gradient, a.micro_batch, a.chunk}))
        wrong(s, p.next, "its gradient has not been received");
      return;
    }
    const int chunk = on_.chunk_of(next);
    if (!p.done.count({Action::backward, a.micro_batch, chunk}) &&
        !p.done.count({Action::backward_input, a.micro_batch, chunk}))
      wrong(s, p.next,
            fmt::format("before {} or its input half", to_string({Action::backward, a.micro_batch, chunk})));
  }

  // Every stage that is not finished waits. The cause, where there is one, is a message that nobody sends;
  // else stages wait for each other in a circle.
  void require_no_deadlock() const {
    std::string circle;
    int first = -1;
    for (int s = 0; s < on_.stages; ++s) {
      if (finished(s)) continue;
      const size_t index = progress_[s].next;
      const Action& a = stages_[s][index];
      const End from = other_end_of(s, a);
      const Schedule& other = stages_[from.stage];
      if (std::find(other.begin() + progress_[from.stage].next, other.end(), from.action) == other.end())
        wrong(s, index, fmt::format("stage {} never sends it", from.stage));
      circle += fmt::format("{}stage {} at action {} ({}) waits for stage {}", first < 0 ? "" : ", ", s,
                            index, to_string(a), from.stage);
      if (first < 0) first = s;
    }
    if (first >= 0) wrong(first, progress_[first].next, "deadlock: " + circle);
  }

  void require_complete() const {
    for (const auto& [channel, messages] : messages_)
      if (!messages.empty())
        wrong(channel.from, messages.front().sent_at, fmt::format("stage {} never receives it", channel.to));
    for (int s = 0; s < on_.stages; ++s)
      for (int chunk = 0; chunk < on_.chunks; ++chunk)
        for (int m = 0; m < micro_batches_; ++m) {
          const auto has = [&](Action::Kind kind) { return progress_[s].done.count({kind, m, chunk}) > 0; };
          const auto expect = [&](bool condition, Action::Kind kind) {
            require(condition, "pipeline schedule, stage {}, after all {} actions: expected {}, found none",
                    s, stages_[s].size(), to_string({kind, m, chunk}));
          };
          expect(has(Action::forward), Action::forward);
          if (!schedule_.trains || has(Action::backward)) continue;
          expect(has(Action::backward_input), Action::backward);
          expect(has(Action::backward_weight), Action::backward_weight);
        }
  }

  const PipelineSchedule& schedule_;
  const VirtualStages on_;
  const int micro_batches_;
  const std::vector<Schedule>& stages_;
  std::vector<Progress> progress_;
  std::map<Channel, std::deque<Message>> messages_;  // on their way
};

}  // namespace

void validate(const PipelineSchedule& schedule, const VirtualStages& on, int micro_batches,
              const std::vector<Schedule>& stages) {
  Simulation(schedule, on, micro_batches, stages).run();
}

void validate(const PipelineSchedule& schedule, const VirtualStages& on, int micro_batches) {
  std::vector<Schedule> stages;
  for (int s = 0; s < on.stages; ++s) stages.push_back(schedule(on, s, micro_batches));
  validate(schedule, on, micro_batches, stages);
}

}  // namespace wuneng

#include "parallel/schedule_times.h"

#include <algorithm>
#include <map>

#include "runtime/error.h"

namespace wuneng {
namespace {

// When a micro-batch has left a virtual stage, forward or backward.
using Times = std::map<std::pair<int, int>, double>;  // by micro-batch and virtual stage

class TimedStages {
 public:
  TimedStages(const VirtualStages& on, const ActionTimes& times, std::vector<Schedule> stages)
      : on_(on),
        times_(times),
        stages_(std::move(stages)),
        next_(stages_.size()),
        free_(stages_.size()),
        holds_(stages_.size()) {
    out_.busy.resize(stages_.size());
    out_.held.resize(stages_.size());
  }

  ScheduleTimes run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int s = 0; s < on_.stages; ++s)
        while (next_[s] < stages_[s].size() && step(s, stages_[s][next_[s]])) moved = true, ++next_[s];
    }
    for (int s = 0; s < on_.stages; ++s)
      require(next_[s] == stages_[s].size(), "pipeline schedule, stage {}, action {}: it never ends", s,
              next_[s]);
    out_.all = *std::max_element(free_.begin(), free_.end());
    return std::move(out_);
  }

 private:
  // False: what it needs has not been made.
  bool step(int s, const Action& a) {
    if (!a.computes()) return true;  // messages: see arrival
    const int v = on_.at(s, a.chunk);
    double begin = free_[s];
    if (a.kind == Action::forward && v > 0 && !arrival(forwards_, a.micro_batch, v - 1, s, begin))
      return false;
    if (a.forms_input_gradient() && v + 1 < on_.count() &&
        !arrival(backwards_, a.micro_batch, v + 1, s, begin))
      return false;
    const double time = time_of(a);
    free_[s] = begin + time;
    out_.busy[s] += time;
    if (a.kind == Action::forward) forwards_[{a.micro_batch, v}] = free_[s];
    if (a.kind == Action::forward) out_.held[s] = std::max(out_.held[s], ++holds_[s]);
    if (a.forms_input_gradient()) backwards_[{a.micro_batch, v}] = free_[s];
    if (a.completes_gradients()) --holds_[s];
    return true;
  }

  bool arrival(const Times& made, int micro_batch, int from, int stage, double& begin) const {
    const auto found = made.find({micro_batch, from});
    if (found == made.end()) return false;
    begin = std::max(begin, found->second + (on_.stage_of(from) == stage ? 0 : times_.message));
    return true;
  }

  double time_of(const Action& a) const {
    double all = 0;
    if (a.kind == Action::forward) all += times_.forward;
    if (a.forms_input_gradient()) all += times_.backward_input;
    if (a.completes_gradients()) all += times_.backward_weight;
    return all / on_.chunks;
  }

  const VirtualStages on_;
  const ActionTimes times_;
  const std::vector<Schedule> stages_;
  std::vector<size_t> next_;
  std::vector<double> free_;  // when each stage's last action has ended
  std::vector<int> holds_;
  Times forwards_, backwards_;
  ScheduleTimes out_;
};

}  // namespace

double ScheduleTimes::idle_share() const {
  double sum = 0;
  for (const double b : busy) sum += b;
  return all > 0 ? 1 - sum / (all * double(busy.size())) : 0;
}

ScheduleTimes simulate(const PipelineSchedule& schedule, const VirtualStages& on, int micro_batches,
                       const ActionTimes& times) {
  std::vector<Schedule> stages;
  for (int s = 0; s < on.stages; ++s) stages.push_back(schedule(on, s, micro_batches));
  return TimedStages(on, times, std::move(stages)).run();
}

ChosenSchedule choose_schedule(int stages, int micro_batches, int64_t layers, const ActionTimes& times) {
  ChosenSchedule best{};
  for (const std::string& name : schedule_names()) {
    const PipelineSchedule& schedule = schedule_named(name);
    const int chunks = schedule.default_chunks();
    if (int64_t{stages} * chunks > layers) continue;
    const ScheduleTimes found =
        simulate(schedule, {stages, chunks, schedule.placement}, micro_batches, times);
    const int most = *std::max_element(found.held.begin(), found.held.end());
    if (most > stages * chunks + (chunks > 1 ? 1 : 0)) continue;
    constexpr double kLess = 1e-9;
    if (!best.schedule || found.idle_share() < best.idle_share - kLess)
      best = {&schedule, chunks, found.idle_share()};
  }
  return best;
}

}  // namespace wuneng

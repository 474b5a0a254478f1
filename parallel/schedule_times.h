// How long a schedule takes and how long its stages wait, by simulation: each action has a given time, each
// message a given latency.
#pragma once
#include <vector>

#include "parallel/schedule.h"

namespace wuneng {

// Of one micro-batch in one stage, all its model chunks together; in any unit.
struct ActionTimes {
  double forward = 1, backward_input = 1, backward_weight = 1;
  double message = 0;
};

struct ScheduleTimes {
  double all = 0;             // from the first stage's first action to the last stage's last
  std::vector<double> busy;   // of each stage
  std::vector<int> held;      // the most micro-batches that each stage holds at a time, each chunk's counted
  double idle_share() const;  // of all stages' time
};

// `schedule` must be valid (schedule_validator.h).
ScheduleTimes simulate(const PipelineSchedule& schedule, const VirtualStages& on, int micro_batches,
                       const ActionTimes& times);

// The registered schedule, and with how many chunks a stage, that waits least by simulation, among those that
// a model of so many layers has enough for and that hold no more than 1F1B's first stage and one chunk. Of
// equal ones the first registered.
struct ChosenSchedule {
  const PipelineSchedule* schedule;
  int chunks;
  double idle_share;
};
ChosenSchedule choose_schedule(int stages, int micro_batches, int64_t layers, const ActionTimes& times);

}  // namespace wuneng

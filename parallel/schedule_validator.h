// The validator of pipeline schedules: it simulates all stages.
#pragma once
#include "parallel/schedule.h"

namespace wuneng {

// Throws, naming stage, index and action, unless the schedules of all stages together
// - run to their end, where sends do not block and receives do, and leave no message behind,
// - take every micro-batch through every chunk forward once and, where `schedule` trains, backward once,
// whole
//   or in two halves, each after what it needs,
// - receive the activations, and the gradients, that one stage sends to another in the order in which they
// are
//   sent, as NCCL does,
// - and hold, where `schedule` trains, at most schedule.most_held micro-batches on each stage.
void validate(const PipelineSchedule& schedule, const VirtualStages& on, int micro_batches,
              const std::vector<Schedule>& stages);
// The stages as `schedule` makes them.
void validate(const PipelineSchedule& schedule, const VirtualStages& on, int micro_batches);

}  // namespace wuneng

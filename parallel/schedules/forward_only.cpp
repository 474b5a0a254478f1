// Forwards alone: evaluation, and the teacher. With several chunks, micro-batches go through them in groups
// of as many as there are stages: with interleaved chunks no stage waits once the pipeline is full.
#include <algorithm>

#include "parallel/schedule.h"

namespace wuneng {
namespace {

Schedule computations(const VirtualStages& on, int, int micro_batches) {
  Schedule out;
  for (int begin = 0; begin < micro_batches; begin += on.stages)
    for (int chunk = 0; chunk < on.chunks; ++chunk)
      for (int m = begin; m < std::min(begin + on.stages, micro_batches); ++m)
        out.push_back({Action::forward, m, chunk});
  return out;
}

}  // namespace

const PipelineSchedule forward_only{"forward_only", false,   VirtualStages::interleaved,
                                    computations,   nullptr, PipelineSchedule::kAnyChunks};

}  // namespace wuneng

// 1F1B (PipeDream-Flush, arXiv 2006.09503): stage s of p runs min(p - s - 1, m) of m forwards ahead, then a
// forward and a backward in turn. It idles for (p - 1)(F + B) in a step.
#include <algorithm>

#include "parallel/schedule.h"

namespace wuneng {
namespace {

Schedule computations(const VirtualStages& on, int stage, int micro_batches) {
  const int ahead = std::min(on.stages - stage - 1, micro_batches);
  Schedule out;
  for (int m = 0; m < ahead; ++m) out.push_back({Action::forward, m});
  for (int m = 0; m < micro_batches; ++m) {
    if (m + ahead < micro_batches) out.push_back({Action::forward, m + ahead});
    out.push_back({Action::backward, m});
  }
  return out;
}

int most_held(const VirtualStages& on, int stage, int micro_batches) {
  return std::min(on.stages - stage, micro_batches);
}

}  // namespace

const PipelineSchedule one_f_one_b{"1f1b", true, VirtualStages::interleaved, computations, most_held};

}  // namespace wuneng

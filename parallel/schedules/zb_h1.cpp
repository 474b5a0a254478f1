// ZB-H1 (zero-bubble pipelines, arXiv 2401.10241): 1F1B with backwards in halves, of which the weight halves
// come s micro-batches late on stage s: while it would wait for a gradient at the end. It idles for
// (p - 1)(F + B - W), and every stage holds as many micro-batches as 1F1B's first.
#include <algorithm>

#include "parallel/schedule.h"

namespace wuneng {
namespace {

Schedule computations(const VirtualStages& on, int stage, int micro_batches) {
  Schedule out;
  for (const Action& a : one_f_one_b.computations(on, stage, micro_batches)) {
    if (a.kind == Action::forward) {
      out.push_back(a);
      continue;
    }
    out.push_back({Action::backward_input, a.micro_batch});
    if (a.micro_batch >= stage) out.push_back({Action::backward_weight, a.micro_batch - stage});
  }
  for (int m = std::max(0, micro_batches - stage); m < micro_batches; ++m)
    out.push_back({Action::backward_weight, m});
  return out;
}

int most_held(const VirtualStages& on, int, int micro_batches) { return std::min(on.stages, micro_batches); }

}  // namespace

const PipelineSchedule zb_h1{"zb_h1", true, VirtualStages::interleaved, computations, most_held};

}  // namespace wuneng

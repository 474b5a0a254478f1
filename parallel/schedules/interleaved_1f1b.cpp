// Interleaved 1F1B (Megatron-LM, arXiv 2104.04473): a stage holds v model chunks, and micro-batches go
// through them in groups of p, so that a stage waits for 1 / v of 1F1B's time: (p - 1)(F + B) / v, F and B of
// all its chunks. It holds more: up to p + (p - 1) / v micro-batches on the first stage.
#include <algorithm>

#include "parallel/schedule.h"

namespace wuneng {
namespace {

// Of whole groups; a last group that is not full is one without its last micro-batches.
int warmup_forwards(const VirtualStages& on, int stage, int micro_batches) {
  return std::min(2 * (on.stages - stage - 1) + (on.chunks - 1) * on.stages, micro_batches * on.chunks);
}

int whole_groups(const VirtualStages& on, int micro_batches) {
  return (micro_batches + on.stages - 1) / on.stages * on.stages;
}

Schedule computations(const VirtualStages& on, int stage, int micro_batches) {
  const int padded = whole_groups(on, micro_batches), all = padded * on.chunks,
            ahead = warmup_forwards(on, stage, padded);
  Schedule out;
  // The i-th forward, or backward.
  const auto add = [&](Action::Kind kind, int i) {
    const int group = i / (on.stages * on.chunks), chunk = i / on.stages % on.chunks,
              micro_batch = group * on.stages + i % on.stages;
    if (micro_batch < micro_batches)
      out.push_back({kind, micro_batch, kind == Action::forward ? chunk : on.chunks - 1 - chunk});
  };
  for (int i = 0; i < ahead; ++i) add(Action::forward, i);
  for (int i = 0; i < all; ++i) {
    if (i + ahead < all) add(Action::forward, i + ahead);
    add(Action::backward, i);
  }
  return out;
}

int most_held(const VirtualStages& on, int stage, int micro_batches) {
  return std::min(warmup_forwards(on, stage, whole_groups(on, micro_batches)) + 1, micro_batches * on.chunks);
}

}  // namespace

const PipelineSchedule interleaved_1f1b{"interleaved", true,      VirtualStages::interleaved,
                                        computations,  most_held, PipelineSchedule::kAnyChunks};

}  // namespace wuneng

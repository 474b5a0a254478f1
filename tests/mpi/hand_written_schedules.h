// Schedules that use what the built-in ones do not: halves of backwards, model chunks, both placements.
#pragma once
#include <algorithm>

#include "parallel/schedule.h"

namespace wuneng {

// As ZB-H1: 1F1B whose weight halves come s micro-batches late on stage s, so that every stage holds as many
// as the first.
inline const PipelineSchedule halves_1f1b{
    "halves_1f1b", true, VirtualStages::interleaved,
    [](const VirtualStages& on, int stage, int micro_batches) {
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
    },
    [](const VirtualStages& on, int, int micro_batches) { return std::min(on.stages, micro_batches); }};

// Interleaved 1F1B as Megatron-LM's; micro_batches a multiple of the stages.
inline int warmup_forwards(const VirtualStages& on, int stage, int micro_batches) {
  return std::min(2 * (on.stages - stage - 1) + (on.chunks - 1) * on.stages, micro_batches * on.chunks);
}
inline const PipelineSchedule interleaved_1f1b{
    "interleaved_1f1b", true, VirtualStages::interleaved,
    [](const VirtualStages& on, int stage, int micro_batches) {
      const int all = micro_batches * on.chunks, ahead = warmup_forwards(on, stage, micro_batches);
      // The i-th forward, or backward: groups of p micro-batches through one chunk after the other.
      const auto add = [&](Schedule& out, Action::Kind kind, int i) {
        const int group = i / (on.stages * on.chunks), chunk = i / on.stages % on.chunks;
        out.push_back({kind, group * on.stages + i % on.stages,
                       kind == Action::forward ? chunk : on.chunks - 1 - chunk});
      };
      Schedule out;
      for (int i = 0; i < ahead; ++i) add(out, Action::forward, i);
      for (int i = 0; i < all; ++i) {
        if (i + ahead < all) add(out, Action::forward, i + ahead);
        add(out, Action::backward, i);
      }
      return out;
    },
    [](const VirtualStages& on, int stage, int micro_batches) {
      return std::min(warmup_forwards(on, stage, micro_batches) + 1, micro_batches * on.chunks);
    }};

// Two chunks in a V: all forwards, then all input halves, each chunk's weight halves after the other chunk's.
inline const PipelineSchedule v_halves{
    "v_halves", true, VirtualStages::v_shaped,
    [](const VirtualStages&, int, int micro_batches) {
      Schedule out;
      const auto all = [&](Action::Kind kind, int chunk) {
        for (int m = 0; m < micro_batches; ++m) out.push_back({kind, m, chunk});
      };
      all(Action::forward, 0);
      all(Action::forward, 1);
      all(Action::backward_input, 1);
      all(Action::backward_input, 0);
      all(Action::backward_weight, 1);
      all(Action::backward_weight, 0);
      return out;
    },
    [](const VirtualStages&, int, int micro_batches) { return 2 * micro_batches; }};

}  // namespace wuneng

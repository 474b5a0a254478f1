// The engine that runs a schedule on one stage's rank.
#pragma once
#include <functional>

#include "parallel/schedule.h"
#include "runtime/comm.h"
#include "runtime/tape.h"

namespace wuneng {

struct PipelineWork {
  std::function<int64_t(int micro_batch)> rows;  // T of a micro-batch, for receive buffers
  int64_t hidden_size = 0;
  // hidden [T, d] is undefined on the first stage. Returns the hidden state to pass on, or on the last stage the loss [1], whose gradient is 1.
  std::function<Var(Tape&, int micro_batch, const Var& hidden)> forward;
};

// Runs one stage's schedule over the ranks of `pp`. `trains`: record tapes and expect backwards.
void run_pipeline(const Comm& pp, const Schedule& schedule, const PipelineWork& work, bool trains, const Stream& stream = {});

}  // namespace wuneng

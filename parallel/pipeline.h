// Pipeline: the one engine that runs a schedule on one stage's rank. It knows neither models nor losses: what
// a micro-batch's forward is, the caller says.
#pragma once
#include <functional>

#include "parallel/schedule.h"
#include "runtime/comm.h"
#include "runtime/tape.h"

namespace wuneng {

struct PipelineWork {
  std::function<int64_t(int micro_batch)> rows;  // T of a micro-batch, which all stages know without talking
  // hidden [T, d] is undefined on the first stage. Returns the hidden state [T, d] to pass on; on the last
  // stage of a training schedule the loss [1], whose gradient is 1, and of a schedule of forwards anything.
  std::function<Var(Tape&, int micro_batch, const Var& hidden)> forward;
  bool train = true;  // false: tapes do not record, and a micro-batch is forgotten when it has gone forward
  // Optional. Called after each forward of this stage, before its output is sent: release what it alone read.
  std::function<void(int micro_batch)> forward_done = {};
};

class Pipeline {
 public:
  // pp: the stages' ranks in order; this rank's stage is pp.rank(). With one stage nothing is sent.
  // Hidden states and their gradients are of type `activations`.
  Pipeline(const Comm& pp, int64_t hidden_size, const Stream& stream = {}, DType activations = DType::f32)
      : pp_(pp), hidden_size_(hidden_size), stream_(stream), activations_(activations) {}

  bool first_stage() const { return pp_.rank() == 0; }
  bool last_stage() const { return pp_.rank() == pp_.size() - 1; }

  // Runs this stage's schedule to its end, sends included. Each micro-batch has its own tape; gradients of
  // parameters add up over the micro-batches in the order of the schedule's backwards.
  void run(const Schedule& schedule, const PipelineWork& work) const;

 private:
  Comm pp_;
  int64_t hidden_size_;
  Stream stream_;
  DType activations_;
};

}  // namespace wuneng

// Pipeline: the one engine that runs a schedule on one stage's rank. It knows neither models nor losses: what
// a micro-batch's forward is, the caller says.
#pragma once
#include <functional>

#include "parallel/schedule.h"
#include "parallel/stage.h"
#include "runtime/comm.h"
#include "runtime/tape.h"

namespace wuneng {

struct PipelineWork {
  std::function<int64_t(int micro_batch)> rows;  // T of a micro-batch, which all stages know
  // A model chunk of this stage. in.hidden [R, d] is undefined on the first virtual stage. Returns the state
  // to pass on; on the last virtual stage of a training schedule as its hidden state the loss [1], whose
  // gradient is 1, and of a schedule of forwards anything.
  std::function<StageState(Tape&, int micro_batch, int chunk, const StageState& in)> forward;
  bool train = true;  // false: tapes do not record, and a micro-batch is forgotten when it has gone forward
  // What is passed on in addition to the hidden state, to a model chunk of this stage and from it; empty:
  // nothing. The virtual stages on both sides name the same.
  std::function<std::vector<CarriedTensor>(int chunk)> carried_in = {}, carried_out = {};
  // R of its hidden state; empty: T.
  std::function<int64_t(int micro_batch)> hidden_rows = {};
};

// The stages' ranks in order, twice: messages of the one kind do not wait for those of the other.
struct PipelineRanks {
  PipelineRanks(const Comm& pp) : PipelineRanks(pp, pp) {}  // NOLINT: for schedules without such an order
  PipelineRanks(const Comm& to_next, const Comm& to_previous)
      : activations(to_next), gradients(to_previous) {}

  Comm activations, gradients;
};

class Pipeline {
 public:
  // This rank's stage is its rank in pp. With one stage nothing is sent.
  // Hidden states and their gradients are of type `activations`.
  Pipeline(const PipelineRanks& pp, int64_t hidden_size, const Stream& stream = {},
           DType activations = DType::f32)
      : Pipeline(pp, {pp.activations.size()}, hidden_size, stream, activations) {}
  // The same with several model chunks a stage.
  Pipeline(const PipelineRanks& pp, const VirtualStages& on, int64_t hidden_size, const Stream& stream = {},
           DType activations = DType::f32);

  // Runs this stage's schedule to its end, sends included. Each chunk of a micro-batch has its own tape;
  // gradients of parameters add up over the micro-batches in the order of the schedule's backwards, where
  // these are in halves in the order of its weight halves (see Tape::backward_inputs for those that are
  // formed in the input halves).
  void run(const Schedule& schedule, const PipelineWork& work) const;

 private:
  PipelineRanks pp_;
  VirtualStages on_;
  int64_t hidden_size_;
  Stream stream_;
  DType activations_;
};

}  // namespace wuneng

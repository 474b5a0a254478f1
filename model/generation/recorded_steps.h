// Steps of one token of each sequence on a GPU, as CUDA graphs: the work of a step is recorded once for each
// number of sequences, and launched as one from then on. What differs from step to step, the tokens and where
// their sequences stand, kernels read from device memory.
#pragma once
#include <map>
#include <memory>

#include "model/decoder.h"
#include "runtime/cuda/graph.h"

namespace wuneng {

class RecordedSteps {
 public:
  // Both outlive it; the model is on a GPU, on one rank. Communication cannot be recorded: NCCL's runs in
  // streams of its own, and messages through the host wait for it.
  RecordedSteps(const Decoder& model, SequenceCache& cache) : model_(model), cache_(cache) {}

  // One new token of each document, of a sequence that has some?
  bool takes(const std::vector<int64_t>& documents, const std::vector<int64_t>& slots) const;

  struct Output {
    Tensor hidden, logits;  // [n, d], [n, vocab] f32, on the device; until the next step
  };
  // tokens[i] of the sequence in slots[i], n in all: as Decoder::extend and Decoder::logits. The first step
  // of n sequences runs kernel by kernel and is recorded after that.
  Output step(const std::vector<int32_t>& tokens, const std::vector<int64_t>& slots);

 private:
  struct Step {
    cuda::Graph graph;  // ends last: tensors of the others are in its memory
    Decoder::Extension extension;
    Output output;
  };
  Output run(const Step& step) const;

  const Decoder& model_;
  SequenceCache& cache_;
  std::map<int64_t, std::unique_ptr<Step>> steps_;  // by the number of sequences
};

}  // namespace wuneng

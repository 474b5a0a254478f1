// Operators of many launches as CUDA graphs in training, such as the loop over a layer's chunk steps, whose
// launches would otherwise grow with the number of chunks. Recorded work has fixed addresses, so a recording
// is of one operator, for documents that are cut in one way (a DocumentLayout has its Recordings), in one
// piece of memory: inputs are copied into it, and gradients out of it. Kernels and their order are those of
// direct launches, and so are results, to the bit.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/operators.h"
#include "runtime/cuda/graph.h"

namespace wuneng {

// What all recordings of a model share.
struct RecordingMemory {
  // What a forward graph leaves for its backward ones; another operator's when those have run.
  struct Kept {
    std::shared_ptr<cuda::GraphPool> pool;
    bool taken = false;
  };
  struct WeightHalf;

  explicit RecordingMemory(Device device)
      : device(device), scratch(std::make_shared<cuda::GraphPool>(device.index)) {}
  // Runs the weight gradients of a recorded operator, unless they have run. Before another operator's
  // gradients take the scratch memory they are run in any case.
  void form(const std::shared_ptr<WeightHalf>& half);

  const Device device;
  std::vector<std::shared_ptr<Kept>> kept;
  const std::shared_ptr<cuda::GraphPool> scratch;  // of all backward graphs
  std::shared_ptr<WeightHalf> waiting;             // its factors are in `scratch`
  std::vector<std::string> notes;                  // for the run's log
};

class Recordings {
 public:
  // documents: in words, for the log.
  Recordings(std::shared_ptr<RecordingMemory> memory, std::string documents)
      : memory_(std::move(memory)), documents_(std::move(documents)) {}

  // function(tape, inputs), whose operator is named by `site`: it must put the same work into the stream each
  // time, and read nothing but `inputs`, `weights` and what the document layout has. Once it runs launch by
  // launch, backward too, which loads its kernels; then it is recorded, if that can be.
  std::vector<Var> run(Tape& tape, const void* site, const std::vector<Var>& inputs,
                       const std::vector<ops::P>& weights, const Recomputed& function);

 private:
  friend struct RecordingMemory;
  struct Graphs;
  using GraphsPtr = std::shared_ptr<const Graphs>;
  struct Site {
    bool ran = false, failed = false;
    std::vector<GraphsPtr> graphs;  // one for each piece of memory that it has had
  };

  std::shared_ptr<Graphs> record(const Stream& stream, const std::shared_ptr<RecordingMemory::Kept>& kept,
                                 const std::vector<Var>& inputs, const Recomputed& function) const;
  std::vector<Var> launch(Tape& tape, const GraphsPtr& graphs, const std::vector<Var>& inputs) const;

  std::shared_ptr<RecordingMemory> memory_;
  std::string documents_;
  bool reported_ = false;  // the log, that there are graphs
  std::map<const void*, std::shared_ptr<Site>> sites_;
};

}  // namespace wuneng

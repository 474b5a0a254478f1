#include "runtime/cuda/graph.h"

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <vector>

#include "runtime/cuda/check.h"
#include "runtime/cuda/device.h"
#include "runtime/cuda/graph_memory.h"
#include "runtime/tensor.h"

namespace wuneng::cuda {

struct Graph::Recording {
  int index;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  std::shared_ptr<GraphMemory> memory;
  std::vector<Tensor> tables;

  explicit Recording(int index) : index(index) {}
  Recording(const Recording&) = delete;
  ~Recording() {
    if (executable) {
      tolerated(cudaStreamSynchronize(static_cast<cudaStream_t>(compute_stream(index))));  // its last launch
      cudaGraphExecDestroy(executable);
    }
    if (graph) cudaGraphDestroy(graph);
    tables.clear();
    if (memory) release_graph_memory(index, memory);
  }
};

namespace {

std::mutex g_mutex;
std::map<int, std::vector<Tensor>*> g_tables;  // of the recording on each GPU

void keep_tables(int index, std::vector<Tensor>* tables) {
  const std::lock_guard lock(g_mutex);
  tables ? void(g_tables[index] = tables) : void(g_tables.erase(index));
}

}  // namespace

Graph Graph::record(int index, const std::function<void()>& work) {
  const auto stream = static_cast<cudaStream_t>(compute_stream(index));
  Graph out;
  out.recording_ = std::make_shared<Recording>(index);
  Recording& r = *out.recording_;
  // Relaxed: memory may be allocated meanwhile.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  r.memory = begin_graph_memory(index);
  keep_tables(index, &r.tables);
  const auto end = [&] {
    keep_tables(index, nullptr);
    end_graph_memory(index);
    return cudaStreamEndCapture(stream, &r.graph);
  };
  try {
    work();
  } catch (...) {
    tolerated(end());
    throw;
  }
  check(end(), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&r.executable, r.graph, 0), "cudaGraphInstantiate");
  return out;
}

void Graph::launch() const {
  check(cudaGraphLaunch(recording_->executable, static_cast<cudaStream_t>(compute_stream(recording_->index))),
        "cudaGraphLaunch");
}

int64_t Graph::size() const {
  size_t count = 0;
  check(cudaGraphGetNodes(recording_->graph, nullptr, &count), "cudaGraphGetNodes");
  return static_cast<int64_t>(count);
}

void keep_for_graph(int index, const Tensor& table) {
  const std::lock_guard lock(g_mutex);
  if (const auto found = g_tables.find(index); found != g_tables.end()) found->second->push_back(table);
}

}  // namespace wuneng::cuda

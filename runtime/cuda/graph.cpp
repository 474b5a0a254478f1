#include "runtime/cuda/graph.h"

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <vector>

#include "runtime/cuda/check.h"
#include "runtime/cuda/device.h"
#include "runtime/cuda/graph_memory.h"
#include "runtime/cuda/waiting.h"
#include "runtime/tensor.h"

namespace wuneng::cuda {

struct Graph::Recording {
  int index;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  std::shared_ptr<GraphPool> pool;
  std::vector<Tensor> tables;

  explicit Recording(int index) : index(index) {}
  Recording(const Recording&) = delete;
  ~Recording() {
    if (executable) {
      tolerated(cudaStreamSynchronize(static_cast<cudaStream_t>(compute_stream(index))));  // its last launch
      cudaGraphExecDestroy(executable);
    }
    if (graph) cudaGraphDestroy(graph);
  }
};

GraphPool::GraphPool(int index) : index_(index), memory_(make_graph_memory()) {}
GraphPool::~GraphPool() { release_graph_memory(index_, memory_); }

namespace {

std::mutex g_mutex;
std::map<int, std::vector<Tensor>*> g_tables;  // of the recording on each GPU

void keep_tables(int index, std::vector<Tensor>* tables) {
  const std::lock_guard lock(g_mutex);
  tables ? void(g_tables[index] = tables) : void(g_tables.erase(index));
}

}  // namespace

Graph Graph::record(int index, const std::function<void()>& work, std::shared_ptr<GraphPool> pool) {
  const auto stream = static_cast<cudaStream_t>(compute_stream(index));
  Graph out;
  out.recording_ = std::make_shared<Recording>(index);
  Recording& r = *out.recording_;
  wait_for(stream);  // memory that tables are written to meanwhile is not in use
  // Relaxed: memory may be allocated, and another stream used, meanwhile.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  r.pool = pool ? std::move(pool) : std::make_shared<GraphPool>(index);
  begin_graph_memory(index, r.pool->memory_);
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

Tensor table_for_graph(int index, const Tensor& table) {
  if (!is_recording(index)) return {};
  // Not in the graph's memory, which earlier work of it may have written to and will again.
  const std::shared_ptr<void> memory = upload_beside_recording(index, table.raw(), table.bytes());
  const Tensor out =
      Tensor::wrap(memory.get(), table.shape(), table.dtype(), memory, {DeviceKind::cuda, index});
  keep_for_graph(index, out);
  return out;
}

void keep_for_graph(int index, const Tensor& table) {
  const std::lock_guard lock(g_mutex);
  if (const auto found = g_tables.find(index); found != g_tables.end()) found->second->push_back(table);
}

}  // namespace wuneng::cuda

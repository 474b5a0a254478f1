// A recorded sequence of work on a GPU (a CUDA graph), which is launched as one, without the host's time for
// each kernel.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>

#include "runtime/error.h"

namespace wuneng {
class Tensor;
}

namespace wuneng::cuda {

struct GraphMemory;

#ifdef WUNENG_WITH_CUDA
// Device memory of graphs: between two of their launches nothing else has it. Graphs that share it use it one
// after the other, each from the start.
class GraphPool {
 public:
  explicit GraphPool(int index);
  ~GraphPool();  // back to the GPU's cache; every tensor in it has ended
  GraphPool(const GraphPool&) = delete;

 private:
  friend class Graph;
  int index_;
  std::shared_ptr<GraphMemory> memory_;
};

class Graph {
 public:
  // Calls work(); what it puts into the GPU's compute stream is recorded, with the addresses that it has, and
  // does not run. Memory that tensors get meanwhile is the pool's, or without one the graph's own, also when
  // they have ended; those that live longer end before it does. Waits for the GPU before. Throws where work()
  // waits for the GPU, or copies from or to the host but by table_for_graph(); then the stream is as before.
  static Graph record(int index, const std::function<void()>& work, std::shared_ptr<GraphPool> pool = {});
  void launch() const;   // in the compute stream
  int64_t size() const;  // kernels, copies and fills

 private:
  struct Recording;
  std::shared_ptr<Recording> recording_;
};
// While this GPU's work is recorded, `table`, which it reads, is kept for the graph.
void keep_for_graph(int index, const Tensor& table);
// While this GPU's work is recorded: a copy of `table`, of the host, that is there before any launch of the
// graph and kept for it. Else undefined.
Tensor table_for_graph(int index, const Tensor& table);
#else
class GraphPool {
 public:
  explicit GraphPool(int) {}
};
class Graph {
 public:
  static Graph record(int, const std::function<void()>&, const std::shared_ptr<GraphPool>& = {}) {
    fail("this build has no CUDA");
  }
  void launch() const {}
  int64_t size() const { return 0; }
};
#endif

}  // namespace wuneng::cuda

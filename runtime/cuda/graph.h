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

#ifdef WUNENG_WITH_CUDA
class Graph {
 public:
  // Calls work(); what it puts into the GPU's compute stream is recorded, with the addresses that it has, and
  // does not run. Memory that tensors get meanwhile belongs to the graph, also when they have ended; those
  // that live longer end before the graph does. Throws where work() waits for the GPU, or copies from or to
  // the host.
  static Graph record(int index, const std::function<void()>& work);
  void launch() const;   // in the compute stream
  int64_t size() const;  // kernels, copies and fills

 private:
  struct Recording;
  std::shared_ptr<Recording> recording_;
};
// While this GPU's work is recorded, `table`, which it reads, is kept for the graph.
void keep_for_graph(int index, const Tensor& table);
#else
class Graph {
 public:
  static Graph record(int, const std::function<void()>&) { fail("this build has no CUDA"); }
  void launch() const {}
  int64_t size() const { return 0; }
};
#endif

}  // namespace wuneng::cuda

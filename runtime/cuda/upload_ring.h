// Pinned memory through which small data of the host reaches a GPU.
#pragma once
#include <cuda_runtime.h>

#include <array>
#include <cstdint>

#include "runtime/cuda/event.h"

namespace wuneng::cuda {

// A copy from pageable memory makes the host wait for the stream, or at least for the driver's own staging;
// one from this ring does not. The ring has segments, which are filled one after the other. An event after
// the last copy of a segment says when it may be written to again, so that there is one event a segment, not
// one a copy. Not thread-safe.
class UploadRing {
 public:
  static constexpr int64_t kSegment = 256 << 10;  // bytes; the largest copy
  static constexpr int kSegments = 8;

  UploadRing();  // takes its memory from the driver and keeps it
  UploadRing(const UploadRing&) = delete;

  // Copies [from, from + bytes) of the host to `to` on the GPU of `stream`, after the work in the stream; all
  // calls name the same stream. `from` may change at once. Waits where the ring is full of copies that have
  // not run: for work that this host has enqueued before, as nccl.h has it.
  void copy(void* to, const void* from, int64_t bytes, cudaStream_t stream);

 private:
  char* memory_ = nullptr;
  std::array<Event, kSegments> last_;  // the last copy of each segment
  int segment_ = 0;
  int64_t used_ = 0;  // bytes of the present segment
};

}  // namespace wuneng::cuda

#include "runtime/cuda/upload_ring.h"

#include <cstring>

#include "runtime/cuda/check.h"

namespace wuneng::cuda {

UploadRing::UploadRing() {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, kSegments * kSegment, cudaHostAllocPortable), "cudaHostAlloc");
  memory_ = static_cast<char*>(memory);
}

void UploadRing::copy(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  constexpr int64_t kAlign = 256;  // of the copies' sources
  WUNENG_ASSERT(bytes <= kSegment);
  if (used_ + bytes > kSegment) {
    last_[segment_] = Event::record(stream);
    segment_ = (segment_ + 1) % kSegments;
    used_ = 0;
    last_[segment_].wait("copy of a table to the GPU");
  }
  char* const at = memory_ + segment_ * kSegment + used_;
  std::memcpy(at, from, bytes);
  used_ += (bytes + kAlign - 1) / kAlign * kAlign;
  check(cudaMemcpyAsync(to, at, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
}

}  // namespace wuneng::cuda

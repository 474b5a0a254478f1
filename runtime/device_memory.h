// Allocation and copies of memory on devices. Tensor is built on this; nothing else allocates device memory.
//
// A device has one compute stream. Allocations, copies and fills are ordered in it, so freed memory may be
// reused at once.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "runtime/cuda/event.h"
#include "runtime/device.h"

namespace wuneng {

int cuda_device_count();  // 0 without a GPU, a driver or CUDA in this build
// "cpu", "cuda" or "auto" (a GPU if there is one): the CPU, or GPU number local_rank modulo the number of
// GPUs of the node, so that ranks may share one. Throws for "cuda" if there is none.
Device parse_device(const std::string& name, int local_rank);
std::string device_name(Device device);  // "NVIDIA H100 80GB HBM3"

Stream compute_stream(Device device);
void synchronize(Device device);  // waits until all work in the compute stream has ended

std::shared_ptr<void> allocate_bytes(Device device, int64_t bytes);  // 64-byte aligned, not zeroed
// Returns when `from` may be reused and, where `to` is on the host, holds the bytes.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);
void zero_bytes(void* at, Device device, int64_t bytes);

// A block of pinned host memory, for asynchronous copies to and from a GPU. Counted as host memory while it
// lives; it returns to a cache when its last copy has ended.
class PinnedBuffer {
 public:
  // data() is null where cuda::reserve() was called and has no room for it.
  PinnedBuffer(Device gpu, int64_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  void* data() const { return memory_; }
  // Asynchronous copies of the whole block in the compute stream.
  void copy_from_gpu(const void* from);
  void copy_to_gpu(void* to);
  void wait(
      const std::string& call) const;  // blocks until the last copy has ended; call: for the hang report

 private:
  Device gpu_;
  int64_t bytes_;
  void* memory_;
  cuda::Event last_;
};
int64_t pinned_bytes();  // pinned for copies by this process, in use or cached

// Memory held by tensors of this process on a kind of device, in bytes.
struct MemoryUse {
  int64_t current = 0;
  int64_t peak = 0;
};
MemoryUse memory_use(DeviceKind kind);
MemoryUse dry_memory_use();  // of dry runs: what their tensors would hold, on whichever kind of device
void reset_dry_memory_peak();
void reset_memory_peak(DeviceKind kind);

}  // namespace wuneng

// Bytes on devices: where they come from and how they are moved. Tensor is built on this; nothing else
// allocates device memory.
//
// A device has one compute stream. Allocations, copies and fills are ordered in it, so memory that is given
// back may be handed out at once.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "runtime/cuda/event.h"
#include "runtime/device.h"

namespace wuneng {

int cuda_device_count();  // 0 without a GPU, a driver or CUDA in this build
// "cpu", "cuda" or "auto" (a GPU where there is one): the CPU, or the GPU of this node's `local_rank`,
// numbers wrapping round, so that ranks may share one. Throws where none is found but asked for.
Device parse_device(const std::string& name, int local_rank);
std::string device_name(Device device);  // "NVIDIA H100 80GB HBM3"

Stream compute_stream(Device device);
void synchronize(Device device);  // waits until all work in the compute stream has ended

std::shared_ptr<void> allocate_bytes(Device device, int64_t bytes);  // 64-byte aligned, not zeroed
// Returns when `from` may be reused and, where `to` is on the host, holds the bytes.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);
void zero_bytes(void* at, Device device, int64_t bytes);

// A block of the host's memory that a GPU copies to and from at full speed while the host goes on. Counted as
// the host's while it lives; its pages stay locked and are used again when the last copy has ended.
class LockedBlock {
 public:
  LockedBlock(Device gpu, int64_t bytes);
  ~LockedBlock();
  LockedBlock(const LockedBlock&) = delete;
  void* data() const { return memory_; }
  // Of the whole block, in the compute stream's order; they return at once.
  void copy_from_gpu(const void* from);
  void copy_to_gpu(void* to);
  void wait(const std::string& call) const;  // until the last copy has ended; call: for messages

 private:
  Device gpu_;
  int64_t bytes_;
  void* memory_;
  cuda::Event last_;
};
int64_t locked_bytes();  // page-locked by this process, in use or to be used again

// Memory held by tensors of this process on a kind of device, in bytes.
struct MemoryUse {
  int64_t current = 0;
  int64_t peak = 0;
};
MemoryUse memory_use(DeviceKind kind);
void reset_memory_peak(DeviceKind kind);

}  // namespace wuneng

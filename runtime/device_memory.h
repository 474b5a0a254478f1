// Bytes on devices: where they come from and how they are moved. Tensor is built on this; nothing else
// allocates device memory.
//
// A device has one compute stream. Allocations, copies and fills are ordered in it, so memory that is given
// back may be handed out at once.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

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

// Memory held by tensors of this process on a kind of device, in bytes.
struct MemoryUse {
  int64_t current = 0;
  int64_t peak = 0;
};
MemoryUse memory_use(DeviceKind kind);
void reset_memory_peak(DeviceKind kind);

}  // namespace wuneng

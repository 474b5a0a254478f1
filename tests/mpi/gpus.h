// Which GPU a rank of a test takes, and whether ranks have GPUs of their own, without which there is no NCCL.
#pragma once
#include <cstdlib>

#include "runtime/comm.h"
#include "runtime/device_memory.h"

namespace wuneng {

// A GPU: this rank's; the CPU: itself.
inline Device of_this_rank(Device device) {
  return device.kind == DeviceKind::cuda ? parse_device("cuda", Runtime::local_rank()) : device;
}

inline bool gpus_of_their_own() {
  return std::getenv("WUNENG_EMULATOR_GPU_PER_RANK") || cuda_device_count() >= Comm::world().size();
}

}  // namespace wuneng

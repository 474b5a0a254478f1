// Device and Stream.
#pragma once
#include <string>

namespace wuneng {

enum class DeviceKind : unsigned char { cpu, cuda };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;  // the GPU's number on this node; 0 on the CPU
  // A dry run: tensors have sizes and addresses but no memory, and kernels are counted in place of computing
  // (runtime/dry_run.h). What the host does is what it does for a device of this kind.
  bool dry = false;
  bool operator==(const Device&) const = default;
};

inline std::string to_string(Device device) {
  const std::string name = device.kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
  return device.dry ? name + " (dry run)" : name;
}

// A queue of work on a device, in order of submission (CUDA stream). On the CPU calls are synchronous.
struct Stream {
  Device device;
  void* handle = nullptr;  // cudaStream_t on a GPU
};

}  // namespace wuneng

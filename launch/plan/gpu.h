// The GPUs that a plan knows, as rates that kernels have reached or are expected to reach (docs/gpu.md): not
// a data sheet's.
#pragma once
#include <string>
#include <vector>

namespace wuneng {

inline constexpr double kGiB = 1024.0 * 1024 * 1024;

struct Gpu {
  std::string name;
  double memory;  // bytes that tensors may have: run.gpu_memory of what libraries leave
  double products, attention,
      wkv7;              // operations a second: matrix products in bf16, and the other two kernels
  double passes;         // bytes a second of a kernel that is bound by memory
  double launch;         // seconds of the host for a kernel
  double node, network;  // bytes a second that a GPU sends to one of its node, and of another node
  int gpus_a_node;
};

const Gpu& gpu_named(const std::string& name);  // throws for an unknown one
std::vector<std::string> gpu_names();

}  // namespace wuneng

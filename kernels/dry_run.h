// What a dry run counts in place of computing (Device::dry): calls of kernels and their floating-point
// operations. What tensors hold, runtime/device_memory.h counts.
#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace wuneng::kernels {

// Of a kernel whose operations are not worth counting: it is bound by memory. Kernels of products say their
// own, 2 for a multiplication and addition, beside their arguments.
template <class Args>
double flops_of(const Args&) {
  return 0;
}

namespace dry_run {

struct Count {
  int64_t calls = 0;
  double flops = 0;
};
using Counts = std::map<std::string, Count>;  // by kernel

void count(const char* kernel, double flops);
Counts take();  // since the last call

}  // namespace dry_run
}  // namespace wuneng::kernels

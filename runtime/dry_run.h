// What a dry run (Device::dry) counts in place of computing: calls of kernels with their floating-point
// operations, the bytes that collectives and messages would move, and the bytes of all tensors that were
// made.
#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace wuneng::dry_run {

struct Calls {
  int64_t count = 0;
  double flops = 0;
};
struct Counts {
  std::map<std::string, Calls> kernels;  // by name
  std::map<std::string, double> sent;    // bytes that this rank sends, by its group of ranks
  double made = 0;                       // bytes of tensors, freed ones too

  double flops() const;
};

void count_kernel(const char* name, double flops);
void count_sent(const std::string& group, double bytes);
void count_made(double bytes);
Counts take();  // since the last call

}  // namespace wuneng::dry_run

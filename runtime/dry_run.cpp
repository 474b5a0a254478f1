#include "runtime/dry_run.h"

#include <utility>

namespace wuneng::dry_run {
namespace {

Counts& counts() {
  static Counts value;
  return value;
}

}  // namespace

double Counts::flops() const {
  double sum = 0;
  for (const auto& [name, calls] : kernels) sum += calls.flops;
  return sum;
}

void count_kernel(const char* name, double flops) {
  Calls& c = counts().kernels[name];
  ++c.count;
  c.flops += flops;
}
void count_sent(const std::string& group, double bytes) { counts().sent[group] += bytes; }
void count_made(double bytes) { counts().made += bytes; }
Counts take() { return std::exchange(counts(), {}); }

}  // namespace wuneng::dry_run

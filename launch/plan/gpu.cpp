#include "launch/plan/gpu.h"

#include "runtime/error.h"

namespace wuneng {
namespace {

// cuBLAS at the sizes of these models, copies, NVLink and a 400 Gb/s port each: figures of others on such
// cards. Attention and WKV-7: expected of our kernels, counted in docs/gpu.md, not measured.
const std::vector<Gpu> known = {
    {"h100", 0.9 * 77 * kGiB, 650e12, 380e12, 69e12, 3.0e12, 5e-6, 450e9, 50e9, 8},
    {"h200", 0.9 * 138 * kGiB, 650e12, 380e12, 69e12, 4.3e12, 5e-6, 450e9, 50e9, 8},
};

}  // namespace

std::vector<std::string> gpu_names() {
  std::vector<std::string> out;
  for (const Gpu& gpu : known) out.push_back(gpu.name);
  return out;
}

const Gpu& gpu_named(const std::string& name) {
  for (const Gpu& gpu : known)
    if (gpu.name == name) return gpu;
  fail("GPU '{}': expected one of {}", name, fmt::join(gpu_names(), ", "));
}

}  // namespace wuneng

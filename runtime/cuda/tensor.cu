#include "runtime/cuda/device.h"
#include "runtime/cuda/launch.h"
#include "runtime/device_memory.h"

namespace wuneng::cuda {

void convert(const Tensor& from, const Tensor& to) {
  const auto is_float = [](DType type) { return type == DType::f32 || type == DType::bf16; };
  if (!is_float(from.dtype()) || !is_float(to.dtype()))
    fail("copy of tensor {} from {} to {} on a GPU: no such conversion", to_string(to.shape()),
         to_string(from.dtype()), to_string(to.dtype()));
  const Floats a = floats(from), b = floats(to);
  for_each(compute_stream(to.device()), "convert", to.numel(), [=] __device__(int64_t i) { b.set(i, a[i]); });
}

void add(const Tensor& from, const Tensor& to) {
  const Floats a = floats(from), b = floats(to);
  for_each(compute_stream(to.device()), "add", to.numel(), [=] __device__(int64_t i) { b.add(i, a[i]); });
}

}  // namespace wuneng::cuda

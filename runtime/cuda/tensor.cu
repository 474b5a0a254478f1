#include "runtime/cuda/device.h"
#include "runtime/cuda/launch.h"
#include "runtime/device_memory.h"

namespace wuneng::cuda {

namespace {

template <class From, class To>
void convert_elements(const Tensor& from, const Tensor& to) {
  const From* a = from.data<From>();
  To* b = to.data<To>();
  for_each(compute_stream(to.device()), "convert", to.numel(),
           [=] __device__(int64_t i) { assign(b[i], as_float(a[i])); });
}

}  // namespace

void convert(const Tensor& from, const Tensor& to) {
  if (from.dtype() == DType::f32 && to.dtype() == DType::bf16)
    convert_elements<float, bf16>(from, to);
  else if (from.dtype() == DType::bf16 && to.dtype() == DType::f32)
    convert_elements<bf16, float>(from, to);
  else
    fail("copy of tensor {} from {} to {} on a GPU: no such conversion", to_string(to.shape()),
         to_string(from.dtype()), to_string(to.dtype()));
}

void add(const Tensor& from, const Tensor& to) {
  const float* a = from.f32();
  float* b = to.f32();
  for_each(compute_stream(to.device()), "add", to.numel(), [=] __device__(int64_t i) { b[i] += a[i]; });
}

}  // namespace wuneng::cuda

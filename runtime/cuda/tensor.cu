#include "runtime/cuda/device.h"
#include "runtime/cuda/elements.h"
#include "runtime/device_memory.h"

namespace wuneng::cuda {

namespace {

template <class T>
void widen(const T* from, const Tensor& to) {
  const FloatPointer out = float_pointer(to);
  for_each(compute_stream(to.device()), "convert", to.numel(),
           [=] __device__(int64_t i) { out.store(i, as_float(from[i])); });
}

}  // namespace

void convert(const Tensor& from, const Tensor& to) {
  const auto is_float = [](DType type) { return type == DType::f32 || type == DType::bf16; };
  if (is_float(to.dtype()) && from.dtype() == DType::f16) return widen(from.data<f16>(), to);
  if (is_float(to.dtype()) && from.dtype() == DType::i8) return widen(from.data<int8_t>(), to);
  if (!is_float(from.dtype()) || !is_float(to.dtype()))
    fail("copy of tensor {} from {} to {} on a GPU: no such conversion", to_string(to.shape()),
         to_string(from.dtype()), to_string(to.dtype()));
  const AnyTypeOperand a(from);
  const Operand b(to);
  for_each(compute_stream(to.device()), "convert", VectorWidth({to}, {from}), to.numel(),
           [=] __device__(auto i) { b.store(i, a[i]); });
}

void add(const Tensor& from, const Tensor& to) {
  const AnyTypeOperand a(from);
  const Operand b(to);
  for_each(compute_stream(to.device()), "add", VectorWidth({to}, {from}), to.numel(),
           [=] __device__(auto i) { b.store(i, b[i] + a[i]); });
}

}  // namespace wuneng::cuda

#include "runtime/tensor.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace wuneng {
namespace {

std::atomic<int64_t> g_current{0}, g_peak{0};

std::shared_ptr<void> allocate_host(int64_t bytes) {
  constexpr int64_t alignment = 64;  // one cache line, one AVX-512 register
  const int64_t rounded = std::max<int64_t>(alignment, (bytes + alignment - 1) / alignment * alignment);
  void* memory = std::aligned_alloc(alignment, rounded);
  require(memory != nullptr, "out of memory: {} bytes asked for, {} held by tensors", bytes,
          g_current.load());
  const int64_t now = g_current += rounded;
  for (int64_t peak = g_peak; now > peak && !g_peak.compare_exchange_weak(peak, now);) {
  }
  return {memory, [rounded](void* p) {
            g_current -= rounded;
            std::free(p);
          }};
}

template <class From, class To>
void convert(const Tensor& from, const Tensor& to) {
  const From* a = from.data<From>();
  To* b = to.data<To>();
  for (int64_t i = 0; i < from.numel(); ++i) b[i] = To(static_cast<float>(a[i]));
}

}  // namespace

std::string to_string(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

int64_t element_count(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

MemoryUse memory_use(DeviceKind) { return {g_current, g_peak}; }
void reset_memory_peak(DeviceKind) { g_peak = g_current.load(); }

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
  require(device.kind == DeviceKind::cpu, "tensor {} on {}: this build runs on the CPU only",
          to_string(shape), to_string(device));
  for (int64_t d : shape) WUNENG_ASSERT(d >= 0);
  Tensor t;
  t.numel_ = element_count(shape);
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.device_ = device;
  t.storage_ = allocate_host(t.bytes());
  t.data_ = t.storage_.get();
  return t;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
  Tensor t = empty(std::move(shape), dtype, device);
  t.zero();
  return t;
}

Tensor Tensor::wrap(void* data, Shape shape, DType dtype, std::shared_ptr<void> owner) {
  Tensor t;
  t.numel_ = element_count(shape);
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.storage_ = std::move(owner);
  t.data_ = data;
  return t;
}

Tensor Tensor::view(Shape shape) const {
  if (element_count(shape) != numel_)
    fail("view of tensor {} as {}: element counts differ", to_string(shape_), to_string(shape));
  Tensor t = *this;
  t.shape_ = std::move(shape);
  return t;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  if (ndim() == 0 || begin < 0 || begin > end || end > shape_[0])
    fail("rows [{}, {}) of tensor {}: out of range", begin, end, to_string(shape_));
  Tensor t = *this;
  const int64_t row = shape_[0] ? numel_ / shape_[0] : 0;
  t.shape_[0] = end - begin;
  t.numel_ = row * (end - begin);
  t.data_ = static_cast<char*>(data_) + begin * row * size_of(dtype_);
  return t;
}

void Tensor::zero() const {
  if (numel_) std::memset(data_, 0, bytes());
}

void Tensor::copy_from(const Tensor& source) const {
  if (source.shape_ != shape_)
    fail("copy of tensor {} into {}: shapes differ", to_string(source.shape_), to_string(shape_));
  if (!numel_) return;
  if (source.dtype_ == dtype_)
    std::memmove(data_, source.data_, bytes());
  else if (source.dtype_ == DType::f32 && dtype_ == DType::bf16)
    convert<float, bf16>(source, *this);
  else if (source.dtype_ == DType::bf16 && dtype_ == DType::f32)
    convert<bf16, float>(source, *this);
  else if (source.dtype_ == DType::f16 && dtype_ == DType::f32)
    convert<f16, float>(source, *this);
  else if (source.dtype_ == DType::f16 && dtype_ == DType::bf16)
    convert<f16, bf16>(source, *this);
  else
    fail("copy of tensor {} from {} to {}: no such conversion", to_string(shape_), to_string(source.dtype_),
         to_string(dtype_));
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device_);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor t = empty(shape_, dtype, device_);
  t.copy_from(*this);
  return t;
}

}  // namespace wuneng

#include "runtime/tensor.h"

#include <algorithm>
#include <bit>

#include "runtime/cuda/device.h"
#include "runtime/threads.h"

namespace wuneng {
namespace {

// To the nearest, ties to even; keeps NaN. Beyond f16's range: infinity.
f16 to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  f16 out;
  if (size > 0x7f800000) {
    out.bits = static_cast<uint16_t>(sign | 0x7e00);
  } else if (size < 0x38800000) {  // below 2^-14: a multiple of 2^-24, as the sum with 1/2 leaves it in f32
    const float half = std::bit_cast<float>(size) + 0.5f;
    out.bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(half) - 0x3f000000));
  } else {
    const uint32_t rounded = size - (112u << 23) + 0xfff + (size >> 13 & 1);
    out.bits = static_cast<uint16_t>(sign | std::min<uint32_t>(rounded >> 13, 0x7c00));
  }
  return out;
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

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
  for (int64_t d : shape) WUNENG_ASSERT(d >= 0);
  Tensor t;
  t.numel_ = element_count(shape);
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.device_ = device;
  t.storage_ = allocate_bytes(device, t.bytes());
  t.data_ = t.storage_.get();
  return t;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
  Tensor t = empty(std::move(shape), dtype, device);
  t.zero();
  return t;
}

Tensor Tensor::wrap(void* data, Shape shape, DType dtype, std::shared_ptr<void> owner, Device device) {
  Tensor t;
  t.numel_ = element_count(shape);
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.storage_ = std::move(owner);
  t.data_ = data;
  t.device_ = device;
  return t;
}

Tensor Tensor::view(Shape shape) const {
  if (element_count(shape) != numel_)
    fail("view of tensor {} as {}: element counts differ", to_string(shape_), to_string(shape));
  Tensor t = *this;
  t.shape_ = std::move(shape);
  return t;
}

Tensor Tensor::together(const Tensor& first, const Tensor& second) {
  const bool alike = first.defined() && second.defined() && first.storage_ == second.storage_ &&
                     first.dtype_ == second.dtype_ && first.ndim() > 0 && first.ndim() == second.ndim() &&
                     std::equal(first.shape_.begin() + 1, first.shape_.end(), second.shape_.begin() + 1);
  if (!alike || static_cast<char*>(first.data_) + first.bytes() != second.data_) return {};
  Tensor all = first;
  all.shape_[0] += second.shape_[0];
  all.numel_ += second.numel_;
  return all;
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

void Tensor::zero() const { zero_bytes(data_, device_, bytes()); }

void Tensor::copy_from(const Tensor& source) const {
  if (source.shape_ != shape_)
    fail("copy of tensor {} into {}: shapes differ", to_string(source.shape_), to_string(shape_));
  if (!numel_) return;
  if (source.dtype_ == dtype_ || device_.dry)
    copy_bytes(data_, device_, source.data_, source.device_, bytes());
  else if (source.device_ != device_)  // converted on the source's device: there is no f16 conversion on GPUs
    copy_from(source.to(dtype_));
  else if (device_.kind == DeviceKind::cuda)
    cuda::convert(source, *this);
  else if (source.dtype_ == DType::f32 && dtype_ == DType::bf16)
    convert<float, bf16>(source, *this);
  else if (source.dtype_ == DType::bf16 && dtype_ == DType::f32)
    convert<bf16, float>(source, *this);
  else if (source.dtype_ == DType::f16 && dtype_ == DType::f32)
    convert<f16, float>(source, *this);
  else if (source.dtype_ == DType::f32 && dtype_ == DType::f16)
    std::transform(source.f32(), source.f32() + numel_, data<f16>(), to_f16);
  else if (source.dtype_ == DType::f16 && dtype_ == DType::bf16)
    convert<f16, bf16>(source, *this);
  else if (source.dtype_ == DType::f64 && dtype_ == DType::f32)
    convert<double, float>(source, *this);
  else if (source.dtype_ == DType::f64 && dtype_ == DType::bf16)
    convert<double, bf16>(source, *this);
  else
    fail("copy of tensor {} from {} to {}: no such conversion", to_string(shape_), to_string(source.dtype_),
         to_string(dtype_));
}

void Tensor::add(const Tensor& other) const {
  if (other.numel_ != numel_ || other.device_ != device_)
    fail("sum of tensors {} on {} and {} on {}", to_string(shape_), to_string(device_),
         to_string(other.shape_), to_string(other.device_));
  if (device_.dry) return;
  if (device_.kind == DeviceKind::cuda) return cuda::add(other, *this);
  float* a = f32();
  const float* b = other.f32();
  parallel_for(numel_, 1 << 15, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) a[i] += b[i];
  });
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

Tensor Tensor::to(Device device) const {
  if (device == device_) return *this;
  Tensor t = empty(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

}  // namespace wuneng

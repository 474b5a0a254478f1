// Tensor: a typed, contiguous, row-major block on one device, shared by its views.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "runtime/device_memory.h"
#include "runtime/dtype.h"

namespace wuneng {

using Shape = std::vector<int64_t>;
std::string to_string(const Shape& shape);  // "[3, 4]"
int64_t element_count(const Shape& shape);

class Tensor {
 public:
  Tensor() = default;  // undefined: no storage
  static Tensor empty(Shape shape, DType dtype = DType::f32, Device device = {});
  static Tensor zeros(Shape shape, DType dtype = DType::f32, Device device = {});
  // A tensor over memory of `device` that `owner` keeps alive (a mapped file, which is read-only by
  // convention; a part of a recorded graph's memory).
  static Tensor wrap(void* data, Shape shape, DType dtype, std::shared_ptr<void> owner, Device device = {});
  template <class T>
  static Tensor from(const std::vector<T>& values, Shape shape) {
    Tensor t = empty(std::move(shape), dtype_of<T>);
    WUNENG_ASSERT(t.numel() == static_cast<int64_t>(values.size()));
    std::copy(values.begin(), values.end(), t.data<T>());
    return t;
  }

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i < 0 ? shape_.size() + i : i]; }
  int ndim() const { return static_cast<int>(shape_.size()); }
  int64_t numel() const { return numel_; }
  int64_t bytes() const { return numel_ * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  void* raw() const { return data_; }
  bool shared() const { return storage_.use_count() > 1; }  // with another Tensor
  template <class T>
  T* data() const {  // typed access; throws for another type
    if (dtype_of<T> != dtype_) [[unlikely]]
      fail("tensor {}: expected element type {}, found {}", to_string(shape_), to_string(dtype_of<T>),
           to_string(dtype_));
    return static_cast<T*>(data_);
  }
  float* f32() const { return data<float>(); }

  Tensor view(Shape shape) const;                 // same elements, another shape
  Tensor rows(int64_t begin, int64_t end) const;  // rows [begin, end) of the first dimension, sharing storage
  // The rows of both, where those of `second` lie behind those of `first` in one block; else undefined.
  static Tensor together(const Tensor& first, const Tensor& second);
  void zero() const;                           // every byte 0
  void copy_from(const Tensor& source) const;  // same shape, from any device; converts f32 to bf16,
                                               // on the CPU to f16; bf16, f16, f64 to f32, bf16
  Tensor clone() const;
  Tensor to(DType dtype) const;    // itself if it has that type
  Tensor to(Device device) const;  // itself if it is on that device
  void add(
      const Tensor& other) const;  // += other: as many elements, on the same device; f32, or bf16 on a GPU

 private:
  std::shared_ptr<void> storage_;
  void* data_ = nullptr;
  Shape shape_;
  int64_t numel_ = 0;
  DType dtype_ = DType::f32;
  Device device_;
};

}  // namespace wuneng

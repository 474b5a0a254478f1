// Values that all ranks of a test know without talking.
#pragma once
#include <cstring>

#include "runtime/tensor.h"

namespace wuneng {

// A number in [-1, 1] that depends on its arguments alone, so that all ranks know each other's data.
inline float pseudo(int64_t a, int64_t b) {
  const uint64_t x = (static_cast<uint64_t>(a) * 1000003 + b + 1) * 0x9e3779b97f4a7c15u;
  return static_cast<float>((x ^ (x >> 29)) >> 40) / (1 << 23) - 1;
}

inline Tensor pseudo_tensor(Shape shape, int64_t seed) {
  const Tensor t = Tensor::empty(std::move(shape));
  for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = pseudo(seed, i);
  return t;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.to(Device{}).raw(), b.to(Device{}).raw(), a.bytes()) == 0;
}

}  // namespace wuneng

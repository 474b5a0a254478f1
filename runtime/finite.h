// Finds infinities and NaNs: elements whose exponent bits are all 1.
#pragma once
#include <algorithm>
#include <cstdint>

#include "runtime/dtype.h"

namespace wuneng {

struct NonFinite {
  int64_t count = 0;
  int64_t first = -1;  // its number; -1: all are finite
};

template <class Bits>
NonFinite find_non_finite(const Bits* bits, int64_t n, Bits exponent) {
  constexpr int64_t kBlock = 4096;  // counted without a branch
  const auto is_non_finite = [exponent](Bits b) { return (b & exponent) == exponent; };
  NonFinite out;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const Bits *const from = bits + begin, *const to = bits + std::min(n, begin + kBlock);
    Bits count = 0;
    for (const Bits* b = from; b < to; ++b) count = static_cast<Bits>(count + is_non_finite(*b));
    if (count > 0 && out.count == 0) out.first = std::find_if(from, to, is_non_finite) - bits;
    out.count += static_cast<int64_t>(count);
  }
  return out;
}

// Of `n` elements; integers are all finite.
inline NonFinite find_non_finite(const void* elements, int64_t n, DType dtype) {
  switch (dtype) {
    case DType::f32:
      return find_non_finite(static_cast<const uint32_t*>(elements), n, uint32_t{0x7f800000});
    case DType::bf16:
      return find_non_finite(static_cast<const uint16_t*>(elements), n, uint16_t{0x7f80});
    case DType::f16:
      return find_non_finite(static_cast<const uint16_t*>(elements), n, uint16_t{0x7c00});
    case DType::f64:
      return find_non_finite(static_cast<const uint64_t*>(elements), n, uint64_t{0x7ff0000000000000});
    default:
      return {};
  }
}

}  // namespace wuneng

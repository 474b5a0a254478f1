// Element types. bf16 is a storage type; the CPU converts it to float to compute.
#pragma once
#include <bit>
#include <cstdint>
#include <string_view>

#include "runtime/error.h"

namespace wuneng {

enum class DType : uint8_t { f32, bf16, f16, f64, i32, i64, u8, i8 };

struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float value) {  // round to nearest, ties to even; keeps NaN
    const uint32_t u = std::bit_cast<uint32_t>(value);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? static_cast<uint16_t>((u >> 16) | 0x40)
                                           : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

struct f16 {
  uint16_t bits = 0;
  explicit operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, exponent = (bits >> 10) & 31,
                   mantissa = bits & 1023;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0) {
      const float value = static_cast<float>(mantissa) * 0x1p-24f;
      return sign ? -value : value;
    }
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
};

constexpr int64_t size_of(DType type) {
  switch (type) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::u8:
    case DType::i8:
      return 1;
  }
  return 0;
}

constexpr std::string_view to_string(DType type) {
  constexpr std::string_view names[] = {"f32", "bf16", "f16", "f64", "i32", "i64", "u8", "i8"};
  return names[static_cast<int>(type)];
}

inline DType parse_dtype(std::string_view name) {
  for (DType type : {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32, DType::i64, DType::u8})
    if (to_string(type) == name) return type;
  fail("unknown element type '{}': expected f32, bf16, f16, f64, i32, i64 or u8", name);
}

template <class T>
inline constexpr DType dtype_of = DType::u8;
template <>
inline constexpr DType dtype_of<float> = DType::f32;
template <>
inline constexpr DType dtype_of<double> = DType::f64;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;
template <>
inline constexpr DType dtype_of<f16> = DType::f16;
template <>
inline constexpr DType dtype_of<int32_t> = DType::i32;
template <>
inline constexpr DType dtype_of<int64_t> = DType::i64;
template <>
inline constexpr DType dtype_of<int8_t> = DType::i8;

}  // namespace wuneng

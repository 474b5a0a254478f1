// Shared by the reader and the writer of token files: constants of the header, and unaligned loads.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "data/token_files/token_file.h"
#include "runtime/error.h"

namespace wuneng::token_format {

static_assert(std::endian::native == std::endian::little, "token files are little-endian and memory-mapped");

constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr uint64_t kVersion = 1;
constexpr int64_t kHeaderBytes = 9 + 8 + 1 + 8 + 8;

template <class T>
T load(const char* array, int64_t i = 0) {
  T value;
  std::memcpy(&value, array + i * static_cast<int64_t>(sizeof(T)), sizeof value);
  return value;
}

// f<T>() of a lambda, with the integer type that the tokens have.
template <class F>
auto with_type(TokenType type, const F& f) {
  switch (type) {
    case TokenType::u8:
      return f.template operator()<uint8_t>();
    case TokenType::i8:
      return f.template operator()<int8_t>();
    case TokenType::i16:
      return f.template operator()<int16_t>();
    case TokenType::u16:
      return f.template operator()<uint16_t>();
    case TokenType::i32:
      return f.template operator()<int32_t>();
    case TokenType::i64:
      return f.template operator()<int64_t>();
  }
  fail("token type: expected one of u8, i8, i16, i32, i64, u16, found code {}", static_cast<int>(type));
}

}  // namespace wuneng::token_format

// What reader and writer of token files share: the header's constants, and loads from memory that is not
// aligned.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace wuneng::token_format {

static_assert(std::endian::native == std::endian::little,
              "token files are little-endian and mapped as they are");

constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr uint64_t kVersion = 1;
constexpr int64_t kHeaderBytes = 9 + 8 + 1 + 8 + 8;

template <class T>
T load(const char* array, int64_t i = 0) {
  T value;
  std::memcpy(&value, array + i * static_cast<int64_t>(sizeof(T)), sizeof value);
  return value;
}

}  // namespace wuneng::token_format

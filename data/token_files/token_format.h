// Shared by the reader and the writer of token files: constants of the header, and unaligned loads.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

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

}  // namespace wuneng::token_format

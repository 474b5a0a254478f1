#include "data/tokenizer/byte_level.h"

#include "data/tokenizer/utf8.h"

namespace wuneng {

const std::array<char32_t, 256>& byte_alphabet() {
  static const std::array<char32_t, 256> alphabet = [] {
    std::array<char32_t, 256> a{};
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      a[byte] = printable ? byte : next++;
    }
    return a;
  }();
  return alphabet;
}

std::string token_bytes(std::string_view token) {
  static const std::array<int, 0x180> bytes = [] {
    std::array<int, 0x180> b;
    b.fill(-1);
    for (int byte = 0; byte < 256; ++byte) b[byte_alphabet()[byte]] = byte;
    return b;
  }();
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const char32_t c = next_utf8(token, at);
    if (c >= bytes.size() || bytes[c] < 0) return std::string(token);
    out.push_back(static_cast<char>(bytes[c]));
  }
  return out;
}

std::string byte_level(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) append_utf8(byte_alphabet()[static_cast<uint8_t>(byte)], out);
  return out;
}

}  // namespace wuneng

#include "data/tokenizer/utf8.h"

#include <cstdint>
#include <cstring>

namespace wuneng {
namespace {

// Bytes of a character by its first one; 0 where none begins so.
int length_by_first(int first) {
  return first < 0x80 ? 1 : first >= 0xf5 ? 0 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 0;
}

// Length of the character at text[at], or minus the length of the ill-formed part there (Unicode, table 3-7:
// the range of the second byte depends on the first; the others are 80..BF).
int character_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0; };
  const int first = byte(at);
  const int length = length_by_first(first);
  if (length < 2) return length == 1 ? 1 : -1;
  const int low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const int high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  const int second = byte(at + 1);
  if (second < low || second > high) return -1;
  for (int i = 2; i < length; ++i)
    if ((byte(at + i) & 0xc0) != 0x80) return -i;
  return length;
}

// Position of the first ill-formed part from `at` on; text.size() if there is none.
size_t find_invalid(std::string_view text, size_t at) {
  while (at < text.size()) {
    uint64_t eight;
    while (at + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if (eight & 0x8080808080808080u) break;
      at += sizeof eight;
    }
    if (at == text.size()) break;
    const int length = character_length(text, at);
    if (length < 0) return at;
    at += length;
  }
  return at;
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) { return find_invalid(text, 0); }

std::string_view replace_invalid_utf8(std::string_view text, std::string& buffer) {
  size_t bad = find_invalid(text, 0);
  if (bad == text.size()) return text;
  buffer.clear();
  size_t begin = 0;
  for (; bad < text.size(); bad = find_invalid(text, begin)) {
    buffer.append(text, begin, bad - begin).append("\ufffd");
    begin = bad - character_length(text, bad);
  }
  return buffer.append(text, begin);
}

size_t unfinished_utf8(std::string_view text) {
  for (size_t bytes = 1; bytes <= 3 && bytes <= text.size(); ++bytes) {
    const size_t at = text.size() - bytes;
    const int first = static_cast<uint8_t>(text[at]);
    if ((first & 0xc0) == 0x80) continue;
    // A second byte that is there must be one that may follow: then the ill-formed part reaches to the end.
    const bool fits = bytes == 1 || character_length(text, at) == -static_cast<int>(bytes);
    return length_by_first(first) > static_cast<int>(bytes) && fits ? bytes : 0;
  }
  return 0;
}

void append_utf8(char32_t c, std::string& text) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xc0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xe0 | c >> 12);
    } else {
      put(0xf0 | c >> 18);
      put(0x80 | (c >> 12 & 0x3f));
    }
    put(0x80 | (c >> 6 & 0x3f));
  }
  put(0x80 | (c & 0x3f));
}

char32_t next_utf8(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(text[i])); };
  const char32_t first = byte(at++);
  if (first < 0x80) return first;
  const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  char32_t c = first & (0x3f >> more);
  for (int i = 0; i < more; ++i) c = c << 6 | (byte(at++) & 0x3f);
  return c;
}

}  // namespace wuneng

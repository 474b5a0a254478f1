#include "data/tokenizer/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <climits>

#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr size_t kChunk = 64 << 10;  // bytes; copied unchanged if NFC cannot change it

void check(UErrorCode status, const char* what) {
  require(U_SUCCESS(status), "NFC: {}: expected success from ICU, found {}", what, u_errorName(status));
}

const icu::Normalizer2& unicode9_nfc() {
  static const icu::FilteredNormalizer2 normalizer = [] {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* all = icu::Normalizer2::getNFCInstance(status);
    static icu::UnicodeSet unicode9(UNICODE_STRING_SIMPLE("[:age=9.0:]"), status);
    check(status, "tables");
    unicode9.freeze();
    return icu::FilteredNormalizer2(*all, unicode9);
  }();
  return normalizer;
}

// Text of characters below U+0300 is in NFC, and their first byte is below 0xCC.
bool may_change(std::string_view text) {
  uint8_t highest = 0;
  for (const char c : text) highest = std::max(highest, static_cast<uint8_t>(c));
  return highest >= 0xcc;
}

}  // namespace

std::string_view nfc(std::string_view text, std::string& buffer) {
  if (!may_change(text)) return text;
  buffer.clear();
  icu::StringByteSink<std::string> sink(&buffer);
  for (size_t begin = 0; begin < text.size();) {
    // ICU's lengths have 32 bits. An ASCII character never combines with characters before it, so text may be
    // split there.
    size_t end = std::min(begin + kChunk, text.size());
    while (end < text.size() && static_cast<uint8_t>(text[end]) >= 0x80) ++end;
    const std::string_view chunk = text.substr(begin, end - begin);
    if (may_change(chunk)) {
      require(chunk.size() <= INT_MAX, "NFC: {} bytes without an ASCII character, expected at most {}",
              chunk.size(), INT_MAX);
      UErrorCode status = U_ZERO_ERROR;
      unicode9_nfc().normalizeUTF8(0, {chunk.data(), static_cast<int32_t>(chunk.size())}, sink, nullptr,
                                   status);
      check(status, "text");
    } else {
      buffer.append(chunk);
    }
    begin = end;
  }
  return buffer;
}

}  // namespace wuneng

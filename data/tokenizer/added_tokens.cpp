#include "data/tokenizer/added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "data/tokenizer/split_pattern.h"
#include "data/tokenizer/utf8.h"

namespace wuneng {
namespace {

// Start of the character that ends at `end`.
size_t character_before(std::string_view text, size_t end) {
  do --end;
  while ((static_cast<uint8_t>(text[end]) & 0xc0) == 0x80);
  return end;
}

UChar32 character_at(std::string_view text, size_t at) { return static_cast<UChar32>(next_utf8(text, at)); }

// Characters of \w that ICU 72 does not know yet.
bool is_later_word(uint32_t c) {
  static const auto ranges = [] {
    std::vector<std::pair<uint32_t, uint32_t>> all;
    for (const char* category : {"L", "M", "Nd"})
      for (const auto& range : later_characters(category)) all.push_back(range);
    return all;
  }();
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const auto& r) { return r.first <= c && c <= r.second; });
}

// \w of Rust's regex.
bool is_word(UChar32 c) {
  constexpr uint32_t kMarksDigitsConnectors = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || (U_MASK(u_charType(c)) & kMarksDigitsConnectors) ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) || is_later_word(static_cast<uint32_t>(c));
}
bool is_space(UChar32 c) { return u_isUWhiteSpace(c); }

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.content.size() > b.content.size();
  });
  for (const AddedToken& t : tokens_) {
    const uint8_t first = byte(t.content, 0);
    begins_[first] = true;
    for (size_t second = 0; second < 256; ++second)
      if (t.content.size() == 1 || byte(t.content, 1) == second)
        pairs_.set(pair(first, static_cast<uint8_t>(second)));
  }
}

const AddedToken* AddedTokens::match(std::string_view text) const {
  for (const AddedToken& t : tokens_)
    if (text.starts_with(t.content)) return &t;
  return nullptr;
}

bool AddedTokens::in_a_word(std::string_view all, size_t start, size_t end) {
  return (start > 0 && is_word(character_at(all, character_before(all, start)))) ||
         (end < all.size() && is_word(character_at(all, end)));
}

size_t AddedTokens::before_spaces(std::string_view all, size_t begin, size_t start) {
  while (start > begin) {
    const size_t before = character_before(all, start);
    if (!is_space(character_at(all, before))) break;
    start = before;
  }
  return start;
}

size_t AddedTokens::behind_spaces(std::string_view all, size_t end) {
  while (end < all.size()) {
    size_t next = end;
    if (!is_space(static_cast<UChar32>(next_utf8(all, next)))) break;
    end = next;
  }
  return end;
}

}  // namespace wuneng

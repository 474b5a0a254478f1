// Added tokens: strings that are one token each, found before any other processing of the text.
#pragma once
#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;      // decode() can skip it; encoding treats it like the others
  bool single_word = false;  // only where no letter, mark, digit or connector (Unicode's \w) is beside it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // found in normalised text, after those that are not
  bool operator==(const AddedToken&) const = default;
};

class AddedTokens {
 public:
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // Calls text(piece) and token(token, piece) in order; the pieces are parts of `all`. Of overlapping tokens
  // the leftmost is used, of those that begin at the same byte the longest.
  template <class Text, class Token>
  void split(std::string_view all, const Text& text, const Token& token) const {
    size_t begin = 0;
    for (size_t at = 0; at < all.size();) {
      const AddedToken* found = may_begin(all, at) ? match(all.substr(at)) : nullptr;
      if (!found) {
        ++at;
        continue;
      }
      size_t start = at, end = at + found->content.size();
      at = end;
      if (found->single_word && in_a_word(all, start, end)) continue;
      if (found->lstrip) start = before_spaces(all, begin, start);
      if (found->rstrip) end = behind_spaces(all, end);
      // The spaces that the one before took may be the beginning of this one.
      if (start > begin) text(all.substr(begin, start - begin));
      token(*found, all.substr(start, end - start));
      begin = end;
    }
    if (begin < all.size()) text(all.substr(begin));
  }

  const std::vector<AddedToken>& all() const { return tokens_; }

 private:
  static uint8_t byte(std::string_view text, size_t at) { return static_cast<uint8_t>(text[at]); }
  static size_t pair(uint8_t first, uint8_t second) { return size_t{first} << 8 | second; }
  bool may_begin(std::string_view text, size_t at) const {
    return begins_[byte(text, at)] &&
           (at + 1 == text.size() || pairs_[pair(byte(text, at), byte(text, at + 1))]);
  }
  const AddedToken* match(std::string_view text) const;
  static bool in_a_word(std::string_view all, size_t start, size_t end);
  static size_t before_spaces(std::string_view all, size_t begin, size_t start);
  static size_t behind_spaces(std::string_view all, size_t end);

  std::vector<AddedToken> tokens_;     // longest first
  std::array<bool, 256> begins_ = {};  // whether a token begins with the byte
  std::bitset<1 << 16> pairs_;         // with the two bytes; of a token of one byte, the second is any
};

}  // namespace wuneng

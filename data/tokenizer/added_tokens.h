// Added tokens: strings that are one token each, found before any other processing of the text.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;  // decode() can skip it; encoding treats it like the others
};

class AddedTokens {
 public:
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // Calls text(piece) and token(id) in order. Of overlapping tokens the leftmost is used, of those that begin
  // at the same byte the longest.
  template <class Text, class Token>
  void split(std::string_view all, const Text& text, const Token& token) const {
    size_t begin = 0;
    for (size_t at = 0; at < all.size();) {
      const AddedToken* found = begins_[static_cast<uint8_t>(all[at])] ? match(all.substr(at)) : nullptr;
      if (!found) {
        ++at;
        continue;
      }
      if (at > begin) text(all.substr(begin, at - begin));
      token(found->id);
      begin = at += found->content.size();
    }
    if (begin < all.size()) text(all.substr(begin));
  }

  const std::vector<AddedToken>& all() const { return tokens_; }

 private:
  const AddedToken* match(std::string_view text) const;

  std::vector<AddedToken> tokens_;     // longest first
  std::array<bool, 256> begins_ = {};  // whether a token begins with the byte
};

}  // namespace wuneng

#include "data/tokenizer/added_tokens.h"

#include <algorithm>

namespace wuneng {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.content.size() > b.content.size();
  });
  for (const AddedToken& t : tokens_) begins_[static_cast<uint8_t>(t.content[0])] = true;
}

const AddedToken* AddedTokens::match(std::string_view text) const {
  for (const AddedToken& t : tokens_)
    if (text.starts_with(t.content)) return &t;
  return nullptr;
}

}  // namespace wuneng

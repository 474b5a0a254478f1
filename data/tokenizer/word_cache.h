// WordCache: the tokens of words seen before, in a fixed number of slots of one cache line each. For one
// thread.
//
// Most of a text consists of a few thousand words, and merging takes most of a tokenizer's time. Two-way set
// associative: a new word replaces the first slot and moves its content to the second. Long words repeat
// rarely and are not cached.
#pragma once
#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace wuneng {

class WordCache {
 public:
  static constexpr size_t kLongestWord = 32;  // bytes
  static constexpr size_t kMostTokens = 7;

  // The tokens of the word; empty if it is not cached (or has no token at all).
  std::span<const int32_t> find(std::string_view word) const {
    if (word.size() > kLongestWord) return {};
    const size_t at = place(word);
    for (const Slot* slot : {&slots_[at], &slots_[at ^ 1]})
      if (slot->length == word.size() && std::memcmp(slot->word, word.data(), word.size()) == 0)
        return {slot->tokens, slot->count};
    return {};
  }

  void add(std::string_view word, std::span<const int32_t> tokens) {
    if (word.size() > kLongestWord || tokens.size() > kMostTokens) return;
    const size_t at = place(word);
    Slot& slot = slots_[at];
    slots_[at ^ 1] = slot;
    slot.length = static_cast<uint8_t>(word.size());
    slot.count = static_cast<uint8_t>(tokens.size());
    std::copy(word.begin(), word.end(), slot.word);
    std::copy(tokens.begin(), tokens.end(), slot.tokens);
  }

 private:
  struct alignas(64) Slot {
    char word[kLongestWord];
    uint8_t length, count;  // length 0: empty
    int32_t tokens[kMostTokens];
  };
  static_assert(sizeof(Slot) == 64);
  static constexpr size_t kSlots = 1 << 15;  // 2 MiB

  static size_t place(std::string_view word) { return XXH3_64bits(word.data(), word.size()) & (kSlots - 1); }

  std::vector<Slot> slots_ = std::vector<Slot>(kSlots);
};

}  // namespace wuneng

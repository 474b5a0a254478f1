// Byte-pair encoding of one word: repeatedly merges the adjacent pair with the lowest rank, the leftmost of
// equals, until no pair has a rank.
#pragma once
#include <array>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace wuneng {

// Two adjacent tokens and the token that replaces them. The rank of a merge is its index in the list.
struct Merge {
  int32_t left, right, result;
};

class BytePairs {
 public:
  // Per-thread scratch memory, reused between calls.
  struct Scratch {
    std::vector<int32_t> ids;     // token at each position
    std::vector<int32_t> ranks;   // of the pair that begins at the position
    std::vector<int32_t> before;  // linked list of positions, for long words
    std::vector<int32_t> behind;
    std::vector<uint64_t> heap;
  };

  // byte_ids[b]: the token of the single byte b, or -1: the byte is left out, as if the word did not have it.
  // Of two merges of the same pair the later one is used.
  BytePairs(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges);

  // Appends the tokens of one word.
  void encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  struct Entry {
    uint64_t pair;
    int32_t rank, result;
  };
  static uint64_t pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  // The slot of the pair, or the empty slot for it: linear probing in a table at most half full.
  static uint64_t hash(uint64_t pair) { return pair * 0x9e3779b97f4a7c15u; }
  size_t slot(uint64_t pair) const {
    size_t i = hash(pair) >> shift_;
    while (table_[i].pair != pair && table_[i].pair != kEmpty) i = (i + 1) & (table_.size() - 1);
    return i;
  }
  const Entry& find(int32_t left, int32_t right) const { return table_[slot(pair(left, right))]; }
  int32_t rank(int32_t left, int32_t right) const {
    const uint64_t p = pair(left, right), bit = hash(p) >> (shift_ - kFilter);
    return seen_[bit / 64] >> bit % 64 & 1 ? table_[slot(p)].rank : kNone;
  }
  void merge_short(Scratch& scratch, std::vector<int32_t>& out) const;
  void merge_long(Scratch& scratch, std::vector<int32_t>& out) const;

  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static constexpr int32_t kNone = std::numeric_limits<int32_t>::max();  // rank of a pair that is not merged
  static constexpr int kFilter = 3;                                      // log2 of bits a slot

  std::array<int32_t, 256> byte_ids_;
  std::vector<Entry> table_;
  int shift_ = 0;  // from a hash to its slot
  // A Bloom filter with one hash and 8 bits per slot. Most pairs that are looked up are not in the table; the
  // filter has half a megabyte, the table 8 MB for a vocabulary of 150,000.
  std::vector<uint64_t> seen_;
};

}  // namespace wuneng

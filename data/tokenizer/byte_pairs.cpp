#include "data/tokenizer/byte_pairs.h"

#include <algorithm>
#include <bit>
#include <climits>

#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr size_t kShort = 48;  // bytes; for shorter words scanning all pairs is faster than a heap
constexpr int32_t kNowhere = -1;

}  // namespace

BytePairs::BytePairs(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges)
    : byte_ids_(byte_ids) {
  const size_t slots = std::bit_ceil(std::max<size_t>(2 * merges.size(), 64));
  shift_ = 64 - std::countr_zero(slots);
  table_.assign(slots, {kEmpty, kNone, 0});
  seen_.resize((slots << kFilter) / 64);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t key = pair(merges[rank].left, merges[rank].right);
    table_[slot(key)] = {key, static_cast<int32_t>(rank), merges[rank].result};
    const uint64_t bit = hash(key) >> (shift_ - kFilter);
    seen_[bit / 64] |= uint64_t{1} << bit % 64;
  }
}

void BytePairs::encode(std::string_view word, Scratch& s, std::vector<int32_t>& out) const {
  require(word.size() < INT_MAX, "a word of {} bytes: expected fewer than {}", word.size(), INT_MAX);
  s.ids.resize(word.size());
  size_t n = 0;
  for (const char byte : word) {
    s.ids[n] = byte_ids_[static_cast<uint8_t>(byte)];
    n += s.ids[n] >= 0;
  }
  s.ids.resize(n);
  s.ranks.resize(n);
  for (size_t i = 0; i + 1 < n; ++i) s.ranks[i] = rank(s.ids[i], s.ids[i + 1]);
  if (n > 0) s.ranks[n - 1] = kNone;
  if (n <= kShort)
    merge_short(s, out);
  else
    merge_long(s, out);
}

void BytePairs::merge_short(Scratch& s, std::vector<int32_t>& out) const {
  size_t n = s.ids.size();
  while (n > 1) {
    const size_t at = std::min_element(s.ranks.begin(), s.ranks.begin() + n) - s.ranks.begin();
    if (s.ranks[at] == kNone) break;
    s.ids[at] = find(s.ids[at], s.ids[at + 1]).result;
    std::copy(s.ids.begin() + at + 2, s.ids.begin() + n, s.ids.begin() + at + 1);
    std::copy(s.ranks.begin() + at + 2, s.ranks.begin() + n, s.ranks.begin() + at + 1);
    --n;
    s.ranks[at] = at + 1 < n ? rank(s.ids[at], s.ids[at + 1]) : kNone;
    if (at > 0) s.ranks[at - 1] = rank(s.ids[at - 1], s.ids[at]);
  }
  out.insert(out.end(), s.ids.begin(), s.ids.begin() + n);
}

// A heap of (rank, position). Entries are not removed when their pair changes; an entry is stale if the rank
// at its position has changed.
void BytePairs::merge_long(Scratch& s, std::vector<int32_t>& out) const {
  const int32_t n = static_cast<int32_t>(s.ids.size());
  s.before.resize(n);
  s.behind.resize(n);
  s.heap.clear();
  const auto entry = [&](int32_t at) {
    return static_cast<uint64_t>(s.ranks[at]) << 32 | static_cast<uint32_t>(at);
  };
  for (int32_t i = 0; i < n; ++i) {
    s.before[i] = i - 1;
    s.behind[i] = i + 1 < n ? i + 1 : kNowhere;
    if (s.ranks[i] != kNone) s.heap.push_back(entry(i));
  }
  std::make_heap(s.heap.begin(), s.heap.end(), std::greater<>());
  const auto update = [&](int32_t at) {
    const int32_t next = s.behind[at];
    s.ranks[at] = next == kNowhere ? kNone : rank(s.ids[at], s.ids[next]);
    if (s.ranks[at] == kNone) return;
    s.heap.push_back(entry(at));
    std::push_heap(s.heap.begin(), s.heap.end(), std::greater<>());
  };
  while (!s.heap.empty()) {
    std::pop_heap(s.heap.begin(), s.heap.end(), std::greater<>());
    const uint64_t top = s.heap.back();
    s.heap.pop_back();
    const int32_t at = static_cast<int32_t>(top & 0xffffffffu);
    if (top != entry(at)) continue;
    const int32_t gone = s.behind[at], next = s.behind[gone];
    s.ids[at] = find(s.ids[at], s.ids[gone]).result;
    s.ranks[gone] = kNone;
    s.behind[at] = next;
    if (next != kNowhere) s.before[next] = at;
    update(at);
    if (s.before[at] != kNowhere) update(s.before[at]);
  }
  for (int32_t i = 0; i != kNowhere; i = s.behind[i]) out.push_back(s.ids[i]);
}

}  // namespace wuneng

#include "data/batches/packing.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

// A set of numbers in [0, n) with a fast lower bound: a bitmap with a hierarchy of summary bitmaps.
class NumberSet {
 public:
  explicit NumberSet(int64_t n) {
    do {
      n = (n + 63) / 64;
      levels_.emplace_back(n, 0);
    } while (n > 1);
  }
  void insert(int64_t x) {
    for (auto& level : levels_) {
      level[x / 64] |= uint64_t{1} << (x % 64);
      x /= 64;
    }
  }
  void erase(int64_t x) {
    for (auto& level : levels_) {
      if ((level[x / 64] &= ~(uint64_t{1} << (x % 64))) != 0) return;
      x /= 64;
    }
  }
  // The smallest element that is at least x; -1: none.
  int64_t at_least(int64_t x) const {
    for (size_t up = 0; up < levels_.size(); ++up, x = x / 64 + 1) {
      if (x / 64 >= static_cast<int64_t>(levels_[up].size())) return -1;
      const uint64_t word = levels_[up][x / 64] >> (x % 64);
      if (word == 0) continue;
      x += std::countr_zero(word);
      while (up-- > 0) x = x * 64 + std::countr_zero(levels_[up][x]);
      return x;
    }
    return -1;
  }

 private:
  std::vector<std::vector<uint64_t>> levels_;
};

// Sequences by their number of free rows; among equals, last in first out.
class Rooms {
 public:
  explicit Rooms(int64_t most) : any_(most + 1), last_(most + 1, kNone) {}
  // Removes and returns the sequence with the fewest free rows that fits; {kNone, 0} if there is none.
  std::pair<uint32_t, int64_t> take(int64_t rows) {
    const int64_t room = any_.at_least(rows);
    if (room < 0) return {kNone, 0};
    const uint32_t sequence = last_[room];
    last_[room] = below_[sequence];
    if (last_[room] == kNone) any_.erase(room);
    return {sequence, room};
  }
  void put(uint32_t sequence, int64_t room) {
    if (sequence >= below_.size()) below_.resize(sequence + 1, kNone);
    if (room == 0) return;
    if (last_[room] == kNone) any_.insert(room);
    below_[sequence] = last_[room];
    last_[room] = sequence;
  }

 private:
  NumberSet any_;
  std::vector<uint32_t> last_, below_;
};

// The permutation that sorts keys in descending order; stable.
std::vector<uint32_t> descending(const std::vector<int32_t>& keys, int64_t most) {
  std::vector<uint32_t> first(most + 2, 0), order(keys.size());
  for (const int32_t key : keys) ++first[most - key + 1];
  for (int64_t k = 0; k <= most; ++k) first[k + 1] += first[k];
  for (size_t i = 0; i < keys.size(); ++i) order[first[most - keys[i]]++] = static_cast<uint32_t>(i);
  return order;
}

}  // namespace

PackingPlan::PackingPlan(const Corpus& corpus, Split split, PackingRule packing, int64_t seq_len)
    : packing_(packing), seq_len_(seq_len), size_(corpus.size(split)) {
  if (packing != PackingRule::windows)
    fit(corpus, split);
  else
    // A sequence of only the last row would have no label.
    sequences_ = (std::max<int64_t>(size_ - 1, 0) + seq_len_ - 1) / seq_len_;
}

void PackingPlan::fit(const Corpus& corpus, Split split) {
  require(seq_len_ < std::numeric_limits<int32_t>::max(), "data: seq_len = {}: expected fewer than 2^31 rows",
          seq_len_);
  std::vector<int64_t> rest_row;
  std::vector<int32_t> rest_rows;
  const int64_t together = packing_ == PackingRule::pairs ? 2 : 1;
  for (int64_t d = 0, n = corpus.documents(split); d < n; d += together) {
    const int64_t end = corpus.document_begin(split, d + together);
    int64_t row = corpus.document_begin(split, d);
    if (packing_ == PackingRule::pairs && end - row > seq_len_) {
      ++too_long_;
      longest_ = std::max(longest_, end - row);
      size_ -= end - row;
      continue;
    }
    for (; end - row >= seq_len_; row += seq_len_) full_.push_back(row);
    if (row == end) continue;
    rest_row.push_back(row);
    rest_rows.push_back(static_cast<int32_t>(end - row));
  }
  require(rest_row.size() < kNone, "data: expected fewer than 2^32 documents in a corpus, found {}",
          rest_row.size());

  const std::vector<uint32_t> order = descending(rest_rows, seq_len_);
  std::vector<uint32_t> sequence_of(order.size());
  Rooms rooms(seq_len_);
  uint32_t sequences = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t rows = rest_rows[order[i]];
    auto [sequence, room] = rooms.take(rows);
    if (sequence == kNone) sequence = sequences++, room = seq_len_;
    rooms.put(sequence, room - rows);
    sequence_of[i] = sequence;
  }

  first_piece_.assign(sequences + 1, 0);
  for (const uint32_t sequence : sequence_of) ++first_piece_[sequence + 1];
  for (uint32_t s = 0; s < sequences; ++s) first_piece_[s + 1] += first_piece_[s];
  piece_row_.resize(order.size());
  piece_rows_.resize(order.size());
  std::vector<int64_t> next(first_piece_.begin(), first_piece_.end() - 1);
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t at = next[sequence_of[i]]++;
    piece_row_[at] = rest_row[order[i]];
    piece_rows_[at] = rest_rows[order[i]];
  }
  sequences_ = static_cast<int64_t>(full_.size()) + sequences;
}

std::vector<Piece> PackingPlan::pieces(int64_t sequence) const {
  if (sequence >= sequences_) return {};
  if (packing_ == PackingRule::windows) {
    const int64_t first = sequence * seq_len_;
    return {{first, std::min(seq_len_, size_ - first)}};
  }
  const int64_t full = static_cast<int64_t>(full_.size());
  if (sequence < full) return {{full_[sequence], seq_len_}};
  std::vector<Piece> out;
  for (int64_t p = first_piece_[sequence - full]; p < first_piece_[sequence - full + 1]; ++p)
    out.push_back({piece_row_[p], piece_rows_[p]});
  return out;
}

double PackingPlan::efficiency() const {
  const double room = static_cast<double>(sequences_) * static_cast<double>(seq_len_);
  return room > 0 ? std::min(1.0, static_cast<double>(size_) / room) : 1;
}

}  // namespace wuneng

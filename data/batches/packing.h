// Packing: splits a corpus into sequences of L rows.
//
//   windows   the concatenated documents split every L rows. Only the last sequence has padding; documents
//             are truncated at sequence boundaries.
//   best_fit  documents of at most L rows are not split. A longer one is split into pieces of L and a
//             remainder. Remainders and short documents, longest first, are each placed in the sequence with
//             the least free rows that fits, or in a new one (best-fit decreasing, "Fewer Truncations
//             Improve Language Modeling", arXiv:2404.10830). Free rows are padded; see efficiency().
//   pairs     best_fit of preference pairs (pair_corpus.h): two documents, one after the other, that are
//   never
//             split or apart. Pairs of more than L rows are left out: see too_long().
//
// Each row that is not left out is in exactly one sequence, and the plan is a pure function of the lengths of
// the documents, so every rank computes the same plan.
#pragma once
#include <cstdint>
#include <vector>

#include "data/batches/corpus.h"

namespace wuneng {

enum class PackingRule { windows, best_fit, pairs };

// Consecutive rows of a split; for best_fit of one document, for pairs of two.
struct Piece {
  int64_t row;
  int64_t rows;
};

// The sequences of one split. Memory for best_fit: 8 bytes per full piece, 12 per other piece and 8 per
// sequence of those; during construction 20 more per document or remainder.
class PackingPlan {
 public:
  PackingPlan(const Corpus& corpus, Split split, PackingRule packing, int64_t seq_len);

  int64_t sequences() const { return sequences_; }
  // The pieces of a sequence in their order; none for numbers from sequences() on.
  std::vector<Piece> pieces(int64_t sequence) const;
  // The fraction of rows that are not padding.
  double efficiency() const;
  // Pairs that no sequence has room for, and the rows of the longest of them; 0 for other rules.
  int64_t too_long() const { return too_long_; }
  int64_t longest() const { return longest_; }

 private:
  void fit(const Corpus& corpus, Split split);

  PackingRule packing_;
  int64_t seq_len_, size_, sequences_ = 0;  // size_: rows that are not left out
  int64_t too_long_ = 0, longest_ = 0;
  // best_fit: first the sequences that consist of one full piece, by its row; then those of several pieces.
  std::vector<int64_t> full_;
  std::vector<int64_t> piece_row_;
  std::vector<int32_t> piece_rows_;
  std::vector<int64_t> first_piece_;  // of each sequence of several pieces, then the number of pieces
};

}  // namespace wuneng

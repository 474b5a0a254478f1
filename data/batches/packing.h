// Packing: how the rows of a corpus are cut into sequences of L rows.
//
//   windows   documents end to end, cut every L rows; nothing is padded but the end, and documents are torn
//             wherever a cut falls.
//   best_fit  documents stay whole where they fit. One longer than L is cut into pieces of L and a rest;
//   rests and
//             short documents, longest first, go each into the sequence with the least room that holds it,
//             else into a new one (best-fit decreasing, as in "Fewer Truncations Improve Language Modeling",
//             arXiv:2404.10830). Room that stays is padding; efficiency() tells how much.
//
// Either way each row is in exactly one sequence, and the plan is a pure function of the lengths of the
// documents, so every rank computes the same one.
#pragma once
#include <cstdint>
#include <vector>

#include "data/batches/corpus.h"

namespace wuneng {

enum class PackingRule { windows, best_fit };

// Consecutive rows of a stream, at most one document's for best_fit.
struct Piece {
  int64_t row;
  int64_t rows;
};

// The sequences of one split. best_fit holds 8 bytes for each full piece, 12 for each other piece and 8 for a
// sequence of those; while it is made, 20 more for each document or rest.
class PackingPlan {
 public:
  PackingPlan(const Corpus& corpus, Split split, PackingRule packing, int64_t seq_len);

  int64_t sequences() const { return sequences_; }
  // The pieces of a sequence, in the order they stand in it; none for numbers from sequences() on.
  std::vector<Piece> pieces(int64_t sequence) const;
  // Rows of documents among all rows of the sequences.
  double efficiency() const;

 private:
  void fit(const Corpus& corpus, Split split);

  PackingRule packing_;
  int64_t seq_len_, size_, sequences_ = 0;
  // best_fit: sequences that one piece fills, by their row, then those put together of pieces.
  std::vector<int64_t> full_;
  std::vector<int64_t> piece_row_;
  std::vector<int32_t> piece_rows_;
  std::vector<int64_t> first_piece_;  // of each sequence put together, then the number of pieces
};

}  // namespace wuneng

// The k largest of each row and the mass of the rest: what a teacher sends of a distribution over the
// vocabulary (teacher.signal = "top_k").
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

inline constexpr int64_t kMostTopK = 1024;

// A row c of C consists of S segments of N candidates: x[s, c, :]. Of the candidates' factor x the k largest,
// in order, of equal ones the lower id first, and the log of the sum of e^(factor x) over the others. NaN is
// larger than any number.
//
// Ranks that hold columns of one row each call it for theirs and exchange the results; a call whose segments
// are those then gives the whole row's: has_rest.
struct TopKArgs {
  Tensor x;    // [S, C, N] f32; with has_rest [S, C, N + 1]
  Tensor ids;  // [S, C, N] i32, that differ within a row; undefined: candidate n has id first + n
  int64_t first = 0;
  bool has_rest = false;  // x[s, c, N] is a log of a sum that joins the rest: top of another call, factor 1
  float factor = 1;
  bool normalize = false;  // log-probabilities: less the log of the whole row's sum
  Tensor top;              // [C, k + 1] f32: the k, -inf where there are fewer, and the rest; -inf: none
  Tensor top_ids;          // [C, k] i32; kNoId where there are fewer
};
inline constexpr int32_t kNoId = INT32_MAX;
WUNENG_KERNEL(top_k, TopKArgs);

// A number that sorts as (x, then the lower id) does.
inline constexpr uint64_t top_k_key(uint32_t bits_of_x, int32_t id) {
  const uint32_t ascending = bits_of_x & 0x80000000u ? ~bits_of_x : bits_of_x | 0x80000000u;
  return uint64_t{ascending} << 32 | static_cast<uint32_t>(~id);
}

}  // namespace wuneng::kernels

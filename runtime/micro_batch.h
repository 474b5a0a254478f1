// One micro-batch of one data-parallel replica: B sequences of L rows, flattened to T = B * L rows of packed
// documents. Equal on all ranks of the replica.
#pragma once
#include <vector>

#include "runtime/tensor.h"

namespace wuneng {

constexpr int32_t kNoLabel = -100;  // a row without a loss

// Consecutive rows of a corpus in a micro-batch.
struct RowOrigin {
  int corpus;         // among the run's sources
  bool held_out;      // the split
  int64_t row, rows;  // in the split
  int64_t at;         // the first of them in the micro-batch
};

struct MicroBatch {
  Tensor tokens;                   // [T] i32, on the host
  Tensor labels;                   // [T] i32, on the host: the next token, or kNoLabel
  std::vector<int64_t> documents;  // first row of each document, then T: [0, 512, 700, 1024]
  // Of preference data: the documents that are chosen answers; the document behind each is the rejected one.
  std::vector<int64_t> pairs = {};
  std::vector<RowOrigin> origins = {};  // of all rows that are not padding, in order

  int64_t rows() const { return tokens.dim(0); }
};

}  // namespace wuneng

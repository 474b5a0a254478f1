// One micro-batch of one data-parallel replica: B sequences of L rows, flattened to T = B * L rows of packed
// documents. Equal on all ranks of the replica.
#pragma once
#include <vector>

#include "runtime/tensor.h"

namespace wuneng {

constexpr int32_t kNoLabel = -100;  // a row without a loss

struct MicroBatch {
  Tensor tokens;                   // [T] i32, on the host
  Tensor labels;                   // [T] i32, on the host: the next token, or kNoLabel
  std::vector<int64_t> documents;  // first row of each document, then T: [0, 512, 700, 1024]
  // Of preference data: the documents that are chosen answers; the document behind each is the rejected one.
  std::vector<int64_t> pairs = {};

  int64_t rows() const { return tokens.dim(0); }
};

}  // namespace wuneng

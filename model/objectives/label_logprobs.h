// Log-probabilities of labels under a model whose vocabulary is sharded, and their gradients.
//
// Rows that have a label go through in chunks: a chunk's logits are computed, turned into log-probabilities
// and dropped; the gradient, whose coefficients may depend on all of them, computes the logits again. No rank
// holds [tokens, vocabulary] of its own. The sharding: hidden R, output matrix S(0)@tp -> values R.
#pragma once
#include <vector>

#include "parallel/parameter.h"
#include "runtime/comm.h"
#include "runtime/tape.h"

namespace wuneng {

// The rows of `labels` [T] i32, on the host, that have one, in order.
std::vector<int64_t> labelled_rows(const Tensor& labels);

class LabelLogprobs {
 public:
  // Collective over tp. hidden [T, d], f32 or on a GPU bf16, equal on all tp ranks; head [local vocabulary,
  // d]; labels [T] i32 on the host. chunk_tokens: rows whose logits are held at a time; 0: what suits the
  // device.
  LabelLogprobs(const Stream& stream, const Comm& tp, const Tensor& hidden, const Parameter* head,
                const Tensor& labels, int64_t chunk_tokens);

  const std::vector<int64_t>& rows() const { return rows_; }  // those with a label: N of them
  const Tensor& values() const { return values_; }            // [N] f64, on the device
  // The gradient of sum_i coefficients[i] values[i]: of the hidden state [T, d], zero in rows without a
  // label, summed over tp; and, if it needs one, added to the head's. Collective over tp.
  Tensor backward(const std::vector<float>& coefficients) const;

 private:
  struct Chunk {
    int64_t begin, end;   // of the N rows
    Tensor maxima, sums;  // kernels/loss.h, reduced over tp
  };
  Tensor logits_of(const Chunk& chunk, const Tensor& buffer) const;

  Stream stream_;
  Comm tp_;
  const Parameter* head_;
  Shape shape_;  // of the hidden state
  std::vector<int64_t> rows_;
  int64_t chunk_rows_;
  Tensor hidden_, labels_, values_;  // of the N rows
  std::vector<Chunk> chunks_;
};

}  // namespace wuneng

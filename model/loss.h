// The loss of stage 2: word-level KL(teacher || student) with temperature, mixed with cross entropy
// (model.md, "Losses").
//
// Fused with the output matrix and cut in chunks of tokens: logits of one chunk are computed, turned into
// their gradient, multiplied into the gradients of hidden state and matrix, and forgotten. No rank holds
// [tokens, vocabulary] of its own. The sharding: hidden R, output matrix S(0)@tp, teacher's columns S(-1)@tp
// -> loss R.
#pragma once
#include <vector>

#include "parallel/stage.h"
#include "parallel/teacher_signal.h"
#include "parallel/tensor_parallel.h"

namespace wuneng {

struct LossOptions {
  float temperature = 1;
  float ce_weight = 0;       // loss = (1 - ce_weight) KL t^2 + ce_weight CE; 1: no teacher needed
  int64_t chunk_tokens = 0;  // whose logits are held at a time; 0: what suits the device
};

// Sums over tokens that have a label.
struct LossSums {
  double kl = 0;  // KL at the temperature, times t^2; 0 without a teacher
  double ce = 0;  // cross entropy against the labels at temperature 1
  int64_t tokens = 0;
};

// The same on the device, where micro-batches add to it: nobody waits before it is read.
class LossTotals {
 public:
  explicit LossTotals(Device device = {}) : totals_(Tensor::zeros({3}, DType::f64, device)) {}
  const Tensor& tensor() const { return totals_; }  // [3] f64: kl, ce, tokens
  LossSums read() const;

 private:
  Tensor totals_;
};

// hidden [T, d] (equal on all tp ranks); head [local vocabulary, d]. `slices` of the teacher's logits, each
// of all T rows, must cover this rank's columns of the shared vocabulary, or be empty where ce_weight is 1.
// Every token's loss is divided by `loss_tokens`, the number of labelled tokens of the whole step. Returns
// the micro-batch's share of the loss, [1] f64. With a recording tape, gradients of the head are added at
// once and the hidden state's when the tape runs backwards.
Var distillation_loss(Tape& tape, const Comm& tp, const Var& hidden, const Parameter* head,
                      const Tensor& labels, const std::vector<SignalPart>& slices, const LossOptions& options,
                      double loss_tokens, const LossTotals& totals);

}  // namespace wuneng

// What the objectives over a vocabulary share: a divergence from the teacher with temperature and cross
// entropy (docs/model.md, "Losses"), fused with the output matrix.
//
// Tokens go through in chunks: the logits of one chunk are computed, turned into their gradient, multiplied
// into the gradients of hidden state and matrix, and dropped. No rank holds [tokens, vocabulary] of its own.
// The sharding: hidden R, output matrix S(0)@tp, teacher's logits S(-1)@tp, or its hidden state R and output
// matrix S(0)@tp -> loss R.
#pragma once
#include <vector>

#include "model/objectives/objective.h"
#include "model/objectives/teacher_logits.h"

namespace wuneng {

// "divergence": by LossOptions::beta, at the temperature, times temperature^2, 0 without a teacher; "ce":
// cross entropy against the labels at temperature 1; "tokens": their number. Over rows that have a label.
std::vector<std::string> vocabulary_loss_sums();

// hidden [T, d] (equal on all tp ranks); head [local vocabulary, d]. `teacher` must cover this rank's columns
// of the vocabulary that both models share, or be empty where ce_weight is 1. Every token's loss is divided
// by `loss_tokens`. Returns the micro-batch's share of the loss, [1] f64. With a recording tape, gradients of
// the head are added at once and the hidden state's when the tape runs backwards.
Var vocabulary_loss(Tape& tape, const Comm& tp, const Var& hidden, const Parameter* head,
                    const Tensor& labels, const TeacherDistribution& teacher, const LossOptions& options,
                    double loss_tokens, const Tensor& sums);

}  // namespace wuneng

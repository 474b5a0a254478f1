// Direct preference optimisation (arXiv:2305.18290; docs/model.md, "Losses", stage 3), with the label
// smoothing of conservative DPO: for a pair of answers to one prompt, chosen c and rejected r, with the
// log-probabilities that the student (pi) and the frozen reference (ref) give to their tokens,
//
//   delta = (pi_c - ref_c) - (pi_r - ref_r)
//   loss = -(1 - s) log sigmoid(beta delta) - s log sigmoid(-beta delta)
//
// A log-probability of an answer is the sum over its tokens with a label or, length-normalised, their mean.
#pragma once
#include <vector>

#include "model/objectives/objective.h"

namespace wuneng {

// Over pairs: "loss"; "reward_chosen" and "reward_rejected", beta (pi - ref) of each answer;
// "accuracy", the pairs with the larger reward for the chosen one; "logp_chosen" and "logp_rejected", pi of
// each; "pairs", their number.
std::vector<std::string> preference_loss_sums();

// hidden [T, d] (equal on all tp ranks); head [local vocabulary, d]; batch.pairs says which documents are
// pairs. reference: one column [rows, 1] f32, the reference's log-probabilities of batch.labels, in parts
// that cover all rows. Every pair's loss is divided by `pairs`. Returns the micro-batch's share of the loss,
// [1] f64; adds to `sums`.
Var preference_loss(Tape& tape, const Comm& tp, const Var& hidden, const Parameter* head,
                    const MicroBatch& batch, const std::vector<SignalPart>& reference,
                    const LossOptions& options, double pairs, const Tensor& sums);

}  // namespace wuneng

// A divergence from a teacher that gives its k most probable tokens and the mass of the rest
// (kernels/top_k.h): that of two distributions over k + 1 classes, the k tokens and all others together. It
// is a lower bound of the divergence over the vocabulary (the data-processing inequality), and its gradient
// leaves proportions within the rest as they are.
//
// As in kernels/loss.h, C tokens and V local columns, x a student's logit and s = x / t. The student's class
// has P_j = p of a chosen token, and for the rest the sum of p over the other columns that both vocabularies
// share. Statistics have the shapes of LossStatisticsArgs, so that ranks reduce them alike.
#pragma once
#include "kernels/loss.h"

namespace wuneng::kernels {

struct TopKColumns {
  Tensor ids;          // [C, k] i32, indices of the vocabulary, that differ within a row
  int64_t shared = 0;  // local columns [0, shared) are those that both vocabularies share
};

// maxima, sums: as loss_statistics has them, with s over the rest in the place of s over the teacher's
// columns, and nothing of a teacher (-inf, 0, 0). chosen [C, k] f32: x of the ids that are here, else 0.
// During the call logits of chosen columns are overwritten; afterwards they are as before.
struct TopKStatisticsArgs {
  LossInputs in;  // without a teacher
  TopKColumns columns;
  Tensor maxima, sums, chosen;
};
WUNENG_KERNEL(top_k_statistics, TopKStatisticsArgs);

// divergence [C] f64 = D over the k + 1 classes, slopes [C, k + 1] f32 = dD / ds of each chosen token, and
// that of the rest, which its tokens share by their p. Maxima, sums and chosen are those reduced over all
// ranks. beta: see Divergence.
struct TopKDivergenceArgs {
  Tensor maxima, sums, chosen;
  Tensor teacher;  // [C, k + 1] f32, log-probabilities of the classes
  float inverse_temperature = 1, beta = 0;
  Tensor divergence, slopes;
};
WUNENG_KERNEL(top_k_divergence, TopKDivergenceArgs);

// gradient [C, V] = ce_scale (softmax(x) - one_hot(label)) + kl_scale dD / ds, f32 or bf16; may alias the
// logits. Scales are [C] f32, 0 for a token without a label.
struct TopKGradientArgs {
  LossInputs in;
  TopKColumns columns;
  Tensor maxima, sums, chosen, slopes;
  Tensor kl_scale, ce_scale;
  Tensor gradient;
};
WUNENG_KERNEL(top_k_gradient, TopKGradientArgs);

}  // namespace wuneng::kernels

// Divergences from a teacher and cross entropy over vocabulary shards (model.md, "Losses"): passes over the
// logits with a tensor-parallel reduction in between.
//
// C tokens (one token block), V local vocabulary columns of the student. x is the student's logit, s = x / t
// and u = the teacher's logit / t, with the temperature t. loss_statistics computes, over this rank's
// columns, maxima and sums of exponentials relative to them. The caller reduces the maxima over the ranks,
// loss_rebase makes the sums relative to the reduced maxima, and the caller sums them over the ranks. From
// these loss_totals computes the losses and loss_gradient the gradient of the logits. A divergence other than
// KL(teacher || student) needs the softmax's denominators first: loss_divergence, whose sums the caller sums
// over the ranks as well.
#pragma once
#include <vector>

#include "kernels/backend.h"

namespace wuneng::kernels {

// A slice of the teacher's logits for the same tokens. row: the first row of `logits` that belongs to the
// token block.
struct TeacherColumns {
  Tensor logits;  // [>= row + C, columns] f32 or bf16
  int64_t row = 0;
  int64_t first = 0;  // the student's local column that column 0 of the slice belongs to
};
inline constexpr size_t kMostTeacherSlices = 32;

// Inputs of both passes.
struct LossInputs {
  Tensor logits;                        // [C, V] f32, on a GPU also bf16
  std::vector<TeacherColumns> teacher;  // in order of their columns, which do not overlap; none: no KL
  float inverse_temperature = 1;
  Tensor labels;      // [C] i32, negative: none
  int64_t begin = 0;  // vocabulary index of local column 0
};

// The student's columns outside all teacher slices, as ranges {first, count}.
inline std::vector<std::pair<int64_t, int64_t>> columns_without_teacher(const LossInputs& in) {
  std::vector<std::pair<int64_t, int64_t>> gaps;
  int64_t at = 0;
  for (const TeacherColumns& t : in.teacher) {
    if (at > t.first)
      fail("loss: the teacher's slice at column {} overlaps the one before, which ends at {}", t.first, at);
    if (at < t.first) gaps.emplace_back(at, t.first - at);
    at = t.first + t.logits.dim(1);
  }
  if (at > in.logits.dim(1)) fail("loss: the teacher's slices end at column {} of {}", at, in.logits.dim(1));
  if (at < in.logits.dim(1)) gaps.emplace_back(at, in.logits.dim(1) - at);
  return gaps;
}

// The generalized Jensen-Shannon divergence of TRL's GKD, of p = softmax(s) and q = softmax(u):
// beta KL(q || m) + (1 - beta) KL(p || m) with m = beta q + (1 - beta) p. Its ends are KL(q || p) for beta =
// 0, the teacher's from the student, and KL(p || q) for beta = 1.
struct Divergence {
  float beta = 0;
  Tensor sums;  // [2, C] f64 from loss_divergence; undefined: beta = 0
};

// maxima [3, C] f32 = { s over the columns that the teacher has, u, x over all columns }; -inf over no
// column. sums [5, C] f64 = { sum e^(s - max s), sum e^(u - max u), sum e^(u - max u) (u - s), sum e^(x - max
// x), x of the label if its column is on this rank, else 0 }.
struct LossStatisticsArgs {
  LossInputs in;
  Tensor maxima, sums;
};
WUNENG_KERNEL(loss_statistics, LossStatisticsArgs);

// Makes sums that are relative to the maxima `from` relative to the maxima `to`.
struct LossRebaseArgs {
  Tensor from, to, sums;
};
WUNENG_KERNEL(loss_rebase, LossRebaseArgs);

// divergence.sums = { sum q log(q / m), sum p log(p / m) } over this rank's columns; for beta = 1, where m is
// q, { 0, sum p log(p / q) }. Maxima and sums are those reduced over all ranks.
struct LossDivergenceArgs {
  LossInputs in;
  Tensor maxima, sums;
  Divergence divergence;  // beta > 0
};
WUNENG_KERNEL(loss_divergence, LossDivergenceArgs);

// Over the tokens with a label, with the divergence D:
//   totals [3] f64 += { D t^2, cross-entropy, number of tokens }
//   loss [1] f64 += ((1 - ce_weight) D t^2 + ce_weight CE) / loss_tokens
// Maxima and sums are those reduced over all ranks.
struct LossTotalsArgs {
  Tensor maxima, sums, labels;
  float temperature = 1, ce_weight = 0;
  double loss_tokens = 1;
  Tensor totals, loss;
  Divergence divergence = {};
};
WUNENG_KERNEL(loss_totals, LossTotalsArgs);

// gradient [C, V] = ce_scale (softmax(x) - one_hot(label)) + kl_scale dD/ds, f32 or bf16; may alias the
// logits. dD/ds = p - q for beta = 0, p (log(p / q) - D) for beta = 1, else (1 - beta) p (log(p / m) - KL(p
// || m)). Scales are [C] f32, 0 for a token without a label.
struct LossGradientArgs {
  LossInputs in;
  Tensor maxima, sums;
  Tensor kl_scale, ce_scale;
  Tensor gradient;
  Divergence divergence = {};
};
WUNENG_KERNEL(loss_gradient, LossGradientArgs);

}  // namespace wuneng::kernels

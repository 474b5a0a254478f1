// log p(label) of each token, of the statistics that kernels/loss.h makes and the caller reduces over the
// ranks: x of the label - max x - log sum e^(x - max x).
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

struct LabelLogprobArgs {
  Tensor maxima, sums;  // [3, C] f32, [5, C] f64: LossStatisticsArgs; every token has a label
  Tensor out;           // [C] f64
};
WUNENG_KERNEL(label_logprob, LabelLogprobArgs);

}  // namespace wuneng::kernels

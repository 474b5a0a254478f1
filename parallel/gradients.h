// Gradients across ranks: summed where ranks hold shares of one, and measured as one vector.
#pragma once
#include "parallel/parameter.h"
#include "runtime/comm.h"

namespace wuneng {

// The groups that gradients are summed over; see parallel/mesh.h.
struct GradientGroups {
  Comm tp, pp, dp, embedding;
};

// Sums every trainable parameter's gradient: over tp where ranks hold shares, over the two ends of the pipeline for a tied embedding, over dp. All
// ranks of a group must have corresponding parameters in the same order. A parameter without a gradient counts as zero.
void synchronize_gradients(const Parameters& parameters, const GradientGroups& groups);

// The global L2 norm, each element counted once, the same on all ranks of a replica.
double gradient_norm(const Parameters& parameters, const GradientGroups& groups);

}  // namespace wuneng

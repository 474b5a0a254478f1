// Gradients across ranks: summed where ranks hold shares of one, and measured as one vector.
#pragma once
#include "parallel/parameter.h"
#include "runtime/comm.h"

namespace wuneng {

// The groups that gradients are summed over; see parallel/mesh.h.
struct GradientGroups {
  Comm tp = {}, pp = {}, dp = {};
  Comm embedding = {};  // first and last pipeline stage; itself elsewhere
};

// Sums the gradient of every trainable parameter: over tp where its holders have shares (each element over
// the ranks that hold it), over the two ends of the pipeline for a tied embedding, then over dp. A parameter
// without a gradient counts as zero. Parameters of the ranks of one tp group, and of one dp group, correspond
// by position.
void synchronize_gradients(const Parameters& parameters, const GradientGroups& groups);

// The global L2 norm over owned elements, each counted once, the same on all ranks: it depends on the
// layout's cut, but on no rank's thread count. Call after synchronize_gradients.
double gradient_norm(const Parameters& parameters, const GradientGroups& groups);

}  // namespace wuneng

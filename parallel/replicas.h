// Ranks that hold the same elements must hold the same bits: data-parallel replicas all of them,
// tensor-parallel ranks those of norms and shared heads, the two ends of the pipeline those of a tied
// embedding. A rank whose memory or kernel went wrong differs from the others, and would train on silently.
#pragma once
#include "parallel/gradients.h"

namespace wuneng {

// Compares checksums of the parameters over the ranks that hold them. Collective over all groups. Throws on
// the ranks of a group in which a rank differs: the message names the parameter and the rank, or both where
// only two hold it.
void check_replicas(const Parameters& parameters, const GradientGroups& groups);

}  // namespace wuneng

// The way back into the residual stream: products whose weights are cut by their inputs, and the sum over
// ranks.
#pragma once
#include <vector>

#include "model/operators.h"
#include "runtime/comm.h"

namespace wuneng {

using Projections = std::vector<ops::Product>;

// The sum of all x W^T over projections and ranks, [T, d].
Var project(Tape& tape, const Comm& tp, const Projections& projections);
// h + that. On one rank nothing but products touches h.
Var add_projections(Tape& tape, const Comm& tp, const Var& h, const Projections& projections);
// The same, and its RMSNorm.
std::pair<Var, Var> add_projections(Tape& tape, const Comm& tp, const Var& h, const Projections& projections,
                                    ops::P norm, float eps);

}  // namespace wuneng

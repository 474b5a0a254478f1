// Operators by which tensor-parallel ranks meet. Outside them every rank computes on what it holds.
//
// Letters: R = equal on all ranks, P = a share of a sum on each rank.
#pragma once
#include "runtime/comm.h"
#include "runtime/tape.h"

namespace wuneng {

// R -> R; backwards the ranks' gradient shares are summed. Stands where a replicated value enters rank-local
// work; weight gradients of that work overlap the sum.
Var copy_to_tensor_parallel(Tape& tape, const Comm& tp, const Var& x);

// Sums y [T, ...] over the ranks, rows [begin, end) as soon as form(begin, end) has formed them: in a few
// parts, so that the sum of one overlaps the product of the next.
void sum_in_parts(const Comm& tp, const Tensor& y,
                  const std::function<void(int64_t begin, int64_t end)>& form);

// P -> R; backwards the gradient (R) is each share's gradient. Stands after what each rank
// has a share of; products that end in such a sum are ops::row_parallel.
Var reduce_from_tensor_parallel(Tape& tape, const Comm& tp, const Var& x);

// P -> R with gradients P -> R: a sum whose result every rank uses in its own way. x [T, heads, D]: only the
// heads that `shared` lists as (local head, slot) are summed, over all ranks that hold the same slot; `slots`
// is the number of slots over all ranks.
struct SharedHead {
  int local;
  int slot;
};
Var sum_shared_heads(Tape& tape, const Comm& tp, const Var& x, const std::vector<SharedHead>& shared,
                     int slots);

}  // namespace wuneng

#include "model/projection.h"

#include "parallel/tensor_parallel.h"

namespace wuneng {
namespace {

Var products(Tape& tape, const Projections& projections, Var sum) {
  for (const Projection& p : projections) sum = ops::linear(tape, p.x, p.weight, nullptr, sum);
  return sum;
}

}  // namespace

Var add_projections(Tape& tape, const Comm& tp, const Var& h, const Projections& projections) {
  if (tp.size() == 1) return products(tape, projections, h);
  return ops::add(tape, h, sum_over_ranks(tape, tp, products(tape, projections, {})));
}

std::pair<Var, Var> add_projections(Tape& tape, const Comm& tp, const Var& h, const Projections& projections,
                                    ops::P norm, float eps) {
  if (tp.size() > 1)
    return ops::add_rms_norm(tape, h, sum_over_ranks(tape, tp, products(tape, projections, {})), norm, eps);
  const Var sum = products(tape, projections, h);
  return {sum, ops::rms_norm(tape, sum, norm, eps)};
}

}  // namespace wuneng

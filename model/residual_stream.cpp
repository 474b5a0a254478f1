#include "model/residual_stream.h"

#include "parallel/sequence_parallel.h"
#include "parallel/tensor_parallel.h"

namespace wuneng {
namespace {

// On one rank.
Var products(Tape& tape, const Projections& projections, Var sum) {
  for (const ops::Product& p : projections) sum = ops::linear(tape, p.x, p.weight, nullptr, sum);
  return sum;
}

}  // namespace

Var ResidualStream::read(Tape& tape, const Var& x) const {
  return shares_rows_ ? gather_rows(tape, tp_, x, rows_) : copy_to_tensor_parallel(tape, tp_, x);
}

Var ResidualStream::read_alike(Tape& tape, const Var& x) const {
  return shares_rows_ ? gather_rows_for_all(tape, tp_, x, rows_) : x;
}

Var ResidualStream::sum(Tape& tape, const Var& x) const {
  return shares_rows_ ? scatter_sum(tape, tp_, x) : reduce_from_tensor_parallel(tape, tp_, x);
}

Var ResidualStream::project(Tape& tape, const Projections& projections) const {
  if (tp_.size() == 1) return products(tape, projections, {});
  return ops::row_parallel(tape, tp_, projections, shares_rows_);
}

Var ResidualStream::add(Tape& tape, const Var& h, const Projections& projections) const {
  if (tp_.size() == 1) return products(tape, projections, h);
  return ops::add(tape, h, project(tape, projections));
}

std::pair<Var, Var> ResidualStream::add(Tape& tape, const Var& h, const Projections& projections, ops::P norm,
                                        float eps) const {
  if (tp_.size() > 1) return ops::add_rms_norm(tape, h, project(tape, projections), norm, eps);
  const Var sum = products(tape, projections, h);
  return {sum, ops::rms_norm(tape, sum, norm, eps)};
}

}  // namespace wuneng

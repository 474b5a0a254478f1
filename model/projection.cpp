#include "model/projection.h"

namespace wuneng {
namespace {

// On one rank.
Var products(Tape& tape, const Projections& projections, Var sum) {
  for (const ops::Product& p : projections) sum = ops::linear(tape, p.x, p.weight, nullptr, sum);
  return sum;
}

}  // namespace

Var project(Tape& tape, const Comm& tp, const Projections& projections) {
  return tp.size() == 1 ? products(tape, projections, {}) : ops::row_parallel(tape, tp, projections);
}

Var add_projections(Tape& tape, const Comm& tp, const Var& h, const Projections& projections) {
  if (tp.size() == 1) return products(tape, projections, h);
  return ops::add(tape, h, ops::row_parallel(tape, tp, projections));
}

std::pair<Var, Var> add_projections(Tape& tape, const Comm& tp, const Var& h, const Projections& projections,
                                    ops::P norm, float eps) {
  if (tp.size() > 1) return ops::add_rms_norm(tape, h, ops::row_parallel(tape, tp, projections), norm, eps);
  const Var sum = products(tape, projections, h);
  return {sum, ops::rms_norm(tape, sum, norm, eps)};
}

}  // namespace wuneng

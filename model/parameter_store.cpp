#include "model/parameter_store.h"

#include <algorithm>

namespace wuneng {

const Parameter* ParameterStore::add(Parameter p, Init init) {
  // Weight decay is for matrices; norms, biases, mixing vectors and per-head scalars are vectors.
  p.decays = p.global_shape.size() >= 2;
  if (allocate_) p.var = Var(Tensor::zeros(p.local_shape(), dtype_, device_), true, DType::f32);
  parameters_.push_back(std::move(p));
  inits_.push_back(std::move(init));
  return &parameters_.back();
}

const Parameter* ParameterStore::whole(std::string name, Shape shape, Init init, bool shares) {
  Parameter p;
  p.name = std::move(name);
  p.global_shape = std::move(shape);
  p.held = {0, p.global_shape[0]};
  p.owned = rank_ == 0 ? p.held : Range{0, 0};
  p.sum_over_tp = shares && ranks_ > 1;
  return add(std::move(p), std::move(init));
}

const Parameter* ParameterStore::sharded_by(std::string name, Shape shape, Init init, int dim,
                                            const std::vector<Range>& ranges, int64_t unit) {
  Parameter p;
  p.name = std::move(name);
  p.global_shape = std::move(shape);
  p.shard_dim = dim;
  p.held = {ranges[rank_].begin * unit, ranges[rank_].end * unit};
  p.owned = p.held;
  // Ranges rise with the rank, so only the rank before can hold the beginning of this one.
  if (rank_ > 0) p.owned.begin = std::min(p.owned.end, std::max(p.owned.begin, ranges[rank_ - 1].end * unit));
  for (int r = 1; r < ranks_; ++r) p.sum_over_tp |= ranges[r].begin < ranges[r - 1].end;
  return add(std::move(p), std::move(init));
}

const Parameter* ParameterStore::sharded_evenly(std::string name, Shape shape, Init init, int dim) {
  std::vector<Range> ranges;
  for (int r = 0; r < ranks_; ++r) ranges.push_back(shard_range(shape[dim], ranks_, r));
  return sharded_by(std::move(name), std::move(shape), std::move(init), dim, ranges, 1);
}

std::pair<const Parameter*, const Parameter*> ParameterStore::joined(std::string first, std::string second,
                                                                     const Shape& shape, const Init& init) {
  const Parameter* const a = sharded_evenly(std::move(first), shape, init, 0);
  const Parameter* const b = sharded_evenly(std::move(second), shape, init, 0);
  join(parameters_[parameters_.size() - 2], parameters_.back());
  return {a, b};
}

Parameters ParameterStore::all() {
  Parameters out;
  for (Parameter& p : parameters_) out.push_back(&p);
  return out;
}

}  // namespace wuneng

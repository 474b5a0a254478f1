// ParameterStore: makes a model's parameters, each with this rank's shard of it and with how it starts, and
// keeps them in one order on all ranks.
#pragma once
#include <deque>
#include <vector>

#include "model/initialize.h"

namespace wuneng {

class ParameterStore {
 public:
  // allocate = false: names and shapes alone; no parameter has a value.
  ParameterStore(int tp_ranks, int tp_rank, DType dtype, Device device = {}, bool allocate = true)
      : ranks_(tp_ranks), rank_(tp_rank), dtype_(dtype), device_(device), allocate_(allocate) {}

  // A tensor that every rank holds whole. `shares`: each rank computes with it on its own heads, so its
  // gradient is a share to be summed; otherwise all ranks compute the same gradient.
  const Parameter* whole(std::string name, Shape shape, Init init, bool shares = false);
  // A tensor sharded along `dim`, where ranks[r] * unit is the range that rank r holds. Ranges may overlap
  // (along dimension 0); then gradients are summed over the holders.
  const Parameter* sharded_by(std::string name, Shape shape, Init init, int dim,
                              const std::vector<Range>& ranges, int64_t unit);
  // A tensor sharded evenly along `dim`.
  const Parameter* sharded_evenly(std::string name, Shape shape, Init init, int dim);
  // Two tensors of this shape, each sharded evenly along dimension 0: Parameter::joins_next.
  std::pair<const Parameter*, const Parameter*> joined(std::string first, std::string second,
                                                       const Shape& shape, const Init& init);

  Parameters all();
  const Init& init(size_t i) const { return inits_[i]; }  // of all()[i]
  int64_t size() const { return static_cast<int64_t>(parameters_.size()); }

 private:
  const Parameter* add(Parameter parameter, Init init);
  int ranks_, rank_;
  DType dtype_;
  Device device_;
  bool allocate_;
  std::deque<Parameter> parameters_;  // a deque: pointers stay
  std::vector<Init> inits_;
};

}  // namespace wuneng

// ParameterStore: makes a model's parameters, each with this rank's share of it, and keeps them in one order
// on all ranks.
#pragma once
#include <deque>
#include <vector>

#include "parallel/parameter.h"

namespace wuneng {

class ParameterStore {
 public:
  ParameterStore(int tp_ranks, int tp_rank, DType dtype, Device device = {})
      : ranks_(tp_ranks), rank_(tp_rank), dtype_(dtype), device_(device) {}

  // A tensor that every rank holds whole. `shares`: each rank computes with it on its own heads, so its
  // gradient is a share to be summed; otherwise all ranks compute the same gradient.
  const Parameter* whole(std::string name, Shape shape, bool shares = false);
  // A tensor cut along `dim`, where ranks[r] * unit is the range that rank r holds. Ranges may overlap (along
  // dimension 0); then gradients are summed over the holders.
  const Parameter* sharded_by(std::string name, Shape shape, int dim, const std::vector<Range>& ranges,
                              int64_t unit);
  // A tensor cut evenly along `dim`.
  const Parameter* sharded_evenly(std::string name, Shape shape, int dim);

  Parameters all();
  int64_t size() const { return static_cast<int64_t>(parameters_.size()); }

 private:
  const Parameter* add(Parameter parameter);
  int ranks_, rank_;
  DType dtype_;
  Device device_;
  std::deque<Parameter> parameters_;  // a deque: pointers stay
};

}  // namespace wuneng

// A projection as one matrix, or as a product of two of a given rank.
#pragma once
#include "model/operators.h"
#include "model/parameter_store.h"

namespace wuneng {

// The best approximation of A [n, d] of a rank: A = second [n, rank] first [rank, d].
struct LowRankFactors {
  Tensor first, second;
};
// Throws where the rank is above n; `name` is A's, for that message.
LowRankFactors factorise(const Tensor& A, int64_t rank, const std::string& name);

// x [T, d] -> x W^T [T, n], W [n, d].
struct LowRankProjection {
  ops::P whole = nullptr;                    // NAME.weight [n, d], or
  ops::P first = nullptr, second = nullptr;  // NAME.first.weight [rank, d] and NAME.second.weight [n, rank]

  Var operator()(Tape& tape, const Var& x) const;
  bool defined() const { return whole || first; }

  // W in a student that starts from another model.
  using Target = std::function<Tensor(const SourceRows& source)>;  // [n, d]
  // rank 0: whole. The rows of W are sharded by ranges * unit (ParameterStore::sharded_by).
  static LowRankProjection make(ParameterStore& store, const std::string& name, Shape shape, int64_t rank,
                                const std::vector<Range>& ranges, int64_t unit, Target target);
};

}  // namespace wuneng

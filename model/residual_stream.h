// ResidualStream: how a layer's mixer and MLP, which tensor-parallel ranks compute on their own heads and
// channels, read hidden states and add to them. Hidden states [R, d] are equal on all ranks (R = T), or, with
// sequence parallelism, each rank has a share of their rows (parallel/sequence_parallel.h).
#pragma once
#include <vector>

#include "model/operators.h"
#include "runtime/comm.h"

namespace wuneng {

// Products whose weights are cut by their inputs: what a rank gives of a sum x W^T over all of them and over
// the ranks.
using Projections = std::vector<ops::Product>;

class ResidualStream {
 public:
  // rows: T. On one rank sequence_parallel changes nothing.
  ResidualStream(const Comm& tp, bool sequence_parallel, int64_t rows)
      : tp_(tp), shares_rows_(sequence_parallel && tp.size() > 1), rows_(rows) {}

  // A hidden state [R, d] -> [T, d], read by each rank for its own heads or channels.
  Var read(Tape& tape, const Var& x) const;
  // The same, read by all ranks alike.
  Var read_alike(Tape& tape, const Var& x) const;

  // [R, d]: the sum over ranks of x [T, d].
  Var sum(Tape& tape, const Var& x) const;
  // The sum of all x W^T over projections and ranks.
  Var project(Tape& tape, const Projections& projections) const;
  // h [R, d] + that. On one rank nothing but products touches h.
  Var add(Tape& tape, const Var& h, const Projections& projections) const;
  // The same, and its RMSNorm.
  std::pair<Var, Var> add(Tape& tape, const Var& h, const Projections& projections, ops::P norm,
                          float eps) const;

 private:
  Comm tp_;
  bool shares_rows_;
  int64_t rows_;
};

}  // namespace wuneng

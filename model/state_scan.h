// The state as an operator (model.md Eq. 4, 9, 10): a scan that runs the recurrence over segments of rows and
// reads its states, and further readings of them. The gradient of a state is never formed for each token: a
// reading leaves its pair of vectors with the scan (see kernels/wkv7.h), and the scan's gradient takes them
// all at once.
#pragma once
#include "kernels/wkv7.h"
#include "runtime/tape.h"

namespace wuneng::ops {

using Segments = std::vector<kernels::Wkv7Segment>;

// T rows, N state heads, R readers, D channels, S segments.
struct ScanInputs {
  Var log_w, k, v, kappa, rate;  // [T, N, D]
  Var r;                         // [T, R, D]
  Var initial;                   // [S, N, D, D]; undefined: zero
  Segments segments;
  std::vector<int> head_state;  // [R] state head of each reader
};

// What wkv7_states keeps, and what the readings leave for its gradient. Shared by the closures that need it.
struct Scan {
  ScanInputs inputs;
  kernels::Wkv7Inputs in;        // the same as tensors
  Tensor chunk_states, removed;  // undefined without a recording tape for segments of one token
  Var y;                         // [T, R, D]: S_t r_t
  Var final;  // [S, N, D, D], or [1] where nobody wants it; carries the scan's place on the tape
  std::vector<kernels::Wkv7BackwardArgs::Pair> readings;
};
using ScanPtr = std::shared_ptr<Scan>;

ScanPtr state_scan(Tape& tape, const ScanInputs& inputs, bool want_final);
// S_t^T u_t of u [T, R, D], which may come from the scan itself.
Var read_state_transposed(Tape& tape, const ScanPtr& scan, const Var& u);

// The same readings of a boundary state B [S, N, D, D], one for all rows of a segment.
Var read_boundary(Tape& tape, const Var& states, const Var& r, const Segments& segments,
                  const std::vector<int>& head_state, bool transposed);

}  // namespace wuneng::ops

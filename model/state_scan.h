// The state as an operator (model.md Eq. 4, 9, 10): scans that run the recurrence over segments of rows, and
// readings of their states. The gradient of a state is never formed for each token: a reading leaves its pair
// of vectors with each scan (see kernels/wkv7.h), and the scan's gradient takes them all at once.
#pragma once
#include "kernels/wkv7.h"
#include "parallel/parameter.h"
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
  struct Reading {
    Tensor dy, r;    // [T, R, D]
    bool of_inputs;  // is r that of the inputs, whose gradient is wanted with it?
  };
  ScanInputs inputs;
  kernels::Wkv7Inputs in;        // the same as tensors
  Tensor chunk_states, removed;  // undefined without a recording tape for segments of one token
  Var y;                         // of those alone: S_t r_t [T, R, D]
  Var final;                     // [S, N, D, D]; undefined where nobody wants it
  Var ran;        // the scan's place on the tape: it has a gradient as soon as a reading or `final` has one
  Tensor dfinal;  // left by `final`; undefined: zero
  std::vector<Reading> readings;
};
using ScanPtr = std::shared_ptr<Scan>;

// Scans whose states are read together, in one launch a reading: the chunk steps of a layer, or one scan.
// Tensors have the rows of all scans, one after the other.
struct ScanGroup {
  std::vector<ScanPtr> scans;    // that have run
  kernels::Wkv7Inputs in;        // segments: those of `scans`
  Var r;                         // [T, R, D]
  Tensor chunk_states, removed;  // see kernels::Wkv7StatesArgs
};
using ScanGroupPtr = std::shared_ptr<ScanGroup>;

// One scan alone.
ScanGroupPtr state_scan(Tape& tape, const ScanInputs& inputs, bool want_final);

// A group of scans that run one after the other by next_scan(), with these segments each; their inputs are
// consecutive slices of log_w, k, kappa, rate [T, N, D] and r [T, R, D].
ScanGroupPtr scan_group(const Var& log_w, const Var& k, const Var& kappa, const Var& rate, const Var& r,
                        const std::vector<Segments>& segments);
// Where the group has the v [rows, N, D] of its next scan: one that lies elsewhere is copied there.
Tensor place_of_value(const ScanGroup& group, int64_t rows);
ScanPtr next_scan(Tape& tape, ScanGroup& group, const ScanInputs& inputs, bool want_final);

// S_t r_t [T, R, D] of all rows, when all scans have run.
Var read_state(Tape& tape, const ScanGroupPtr& group);
// S_t^T u_t of u [T, R, D], which may come from the scans themselves.
Var read_state_transposed(Tape& tape, const ScanGroupPtr& group, const Var& u);

// The same readings of a boundary state B [S, N, D, D], one for all rows of a segment. norm: a weight [R, D]
// of the RMSNorm that the reading is returned with; null: none.
Var read_boundary(Tape& tape, const Var& states, const Var& r, const Segments& segments,
                  const std::vector<int>& head_state, bool transposed, const Parameter* norm = nullptr,
                  float eps = 0);

}  // namespace wuneng::ops

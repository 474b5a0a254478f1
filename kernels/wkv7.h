// The WKV-7 recurrence in chunked form (model.md Eq. 4, 9, 10; RWKV-7), as separate kernels for the
// recurrence and for reading from its states:
//
//   S_t = S_{t-1} (diag(w_t) - kappa_t (rate_t o kappa_t)^T) + v_t k_t^T          S is [D (value), D (key)]
//
// wkv7_states runs the recurrence and stores what the other kernels need; wkv7_read computes S_t r (z = S r),
// wkv7_read_transposed S_t^T u. The backward takes the readings as pairs: a reading y = S_t r with gradient
// dy adds dy r^T to dS_t, and a transposed reading z = S_t^T u with gradient dz adds u dz^T, so it is the
// pair (dy := u, r := dz). The backward also computes the gradient of r if it is wanted, since its products
// are at hand; the gradient of u is wkv7_read of dz.
//
// T rows, N state heads, R readers (query heads), D channels. A segment is a run of consecutive rows of one
// document; segment s starts from initial[s] and ends in final[s]. It is split into kernel chunks of
// wkv7_chunk rows, counted from its start (not to be confused with the student's option `chunk`, the distance
// of boundary states). States are f32. Everything else is an activation: all f32, or on a GPU all bf16.
// `removed` is an activation too: rounding it to bf16 changes it by up to 2^-9, which is within the rounding
// of the readings (tolerance 4e-3 of y). The recurrence continues with the rounded rows, so that recomputing
// a state from a stored one gives the same bits.
#pragma once
#include <vector>

#include "kernels/backend.h"

namespace wuneng::kernels {

inline constexpr int64_t wkv7_chunk = 16;
// Rows between two states of a segment that are stored; the readings and the backward recompute the states
// before the chunks in between. A GPU stores fewer of them: its arithmetic is cheaper than its memory.
constexpr int64_t wkv7_kept(DeviceKind kind) { return kind == DeviceKind::cpu ? wkv7_chunk : 64; }

struct Wkv7Segment {
  int64_t begin;  // first row
  int64_t count;  // rows, > 0
};
int64_t wkv7_chunk_count(const std::vector<Wkv7Segment>& segments);  // over all segments, each rounded up
int64_t wkv7_kept_count(const std::vector<Wkv7Segment>& segments, DeviceKind kind);

// The recurrence's inputs, all [T, N, D].
struct Wkv7Inputs {
  Tensor log_w;  // log of the decay, in [-0.6066, 0]
  Tensor k;      // replacement key (already times 1 + (a-1) k_a)
  Tensor v;      // state value
  Tensor kappa;  // removal key, L2-normalised
  Tensor rate;   // in (0, 1)
  std::vector<Wkv7Segment> segments;
};

struct Wkv7StatesArgs {
  Wkv7Inputs in;
  Tensor initial;       // [segments, N, D, D]; undefined: zero
  Tensor chunk_states;  // out [wkv7_kept_count, N, D, D]: the stored states, in the order of the segments
  Tensor removed;       // out [T, N, D]: u_t = -S_{t-1} kappa_t, the removed value of each token
  Tensor final;         // out [segments, N, D, D]; undefined: not computed
};
// Operations of the recurrence token by token; in chunks there are somewhat more. Three products of a state
// with vectors of its width.
inline double flops_of(const Wkv7StatesArgs& a) {
  return 6.0 * double(a.removed.numel()) * double(a.removed.dim(2));
}
WUNENG_KERNEL(wkv7_states, Wkv7StatesArgs);

// y[t, h] = S_t[head_state[h]] r[t, h] for the rows of the segments.
struct Wkv7ReadArgs {
  Wkv7Inputs in;
  Tensor chunk_states, removed;  // from wkv7_states
  std::vector<int> head_state;   // [R]: the state head that each reader reads, non-decreasing
  Tensor r;                      // [T, R, D]
  Tensor y;                      // [T, R, D] out
};
inline double flops_of(const Wkv7ReadArgs& a) { return 2.0 * double(a.r.numel()) * double(a.r.dim(2)); }
WUNENG_KERNEL(wkv7_read, Wkv7ReadArgs);
// y[t, h] = S_t[head_state[h]]^T r[t, h]
WUNENG_KERNEL(wkv7_read_transposed, Wkv7ReadArgs);

// From pairs (dy, r), each [T, R, D], and the gradient of the final state: the gradients of the inputs and of
// the readers, overwritten in the rows of the segments, and of the initial state.
struct Wkv7BackwardArgs {
  Wkv7Inputs in;
  Tensor chunk_states, removed;
  std::vector<int> head_state;
  struct Pair {
    Tensor dy, r;
    Tensor dr;  // out: S_t^T dy_t, the gradient of r; undefined: not computed
  };
  std::vector<Pair> readings;            // at most two
  Tensor dfinal;                         // [segments, N, D, D]; undefined: zero
  Tensor dlog_w, dk, dv, dkappa, drate;  // [T, N, D] out
  Tensor dinitial;                       // [segments, N, D, D] out; undefined: not computed
};
inline double flops_of(const Wkv7BackwardArgs& a) {
  double readings = 0;
  for (const Wkv7BackwardArgs::Pair& pair : a.readings) readings += double(pair.r.numel());
  return (16.0 * double(a.removed.numel()) + 4.0 * readings) * double(a.removed.dim(2));
}
WUNENG_KERNEL(wkv7_backward, Wkv7BackwardArgs);

// The recurrence token by token, forward only with one reading: for segments of few tokens, as generation has
// them, and the direct form that tests and benchmarks compare the chunked one with.
struct Wkv7RecurrentArgs {
  Wkv7Inputs in;
  std::vector<int> head_state;
  Tensor r, y;            // [T, R, D]
  Tensor initial, final;  // as Wkv7StatesArgs; final may be initial
};
WUNENG_KERNEL(wkv7_recurrent, Wkv7RecurrentArgs);

}  // namespace wuneng::kernels

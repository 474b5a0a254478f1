// The WKV-7 recurrence in chunked form (model.md Eq. 4, 9, 10; RWKV-7), split so that readers and the
// recurrence meet only in the states:
//
//   S_t = S_{t-1} (diag(w_t) - kappa_t (rate_t o kappa_t)^T) + v_t k_t^T          S is [D (value), D (key)]
//
// wkv7_states runs the recurrence and keeps what any reading needs; wkv7_read gives S_t r (z = S r),
// wkv7_read_transposed gives S_t^T u. The backward takes the readings as pairs: a reading y = S_t r with
// gradient dy adds dy r^T to dS_t, and a transposed reading z = S_t^T u with gradient dz adds u dz^T, so it
// is the pair (dy := u, r := dz). The gradient of r comes out of the backward too, where it is wanted, for it
// is nearly there; that of u is wkv7_read of dz.
//
// T rows, N state heads, R readers (query heads), D channels. A segment is a run of consecutive rows of one
// document; segment s starts from initial[s] and ends in final[s]. Inside, it is cut in chunks of wkv7_chunk
// rows from its own start. States are f32. Everything else is an activation: all f32, or on a GPU all bf16.
// What each step takes out is one too: rounded, it is 2^-9 of itself off, which the readings of bf16 models
// lose anyway (4e-3 of y are allowed), and the state goes on with the rounded rows, so that whoever computes
// it again gets the same state.
#pragma once
#include <vector>

#include "kernels/backend.h"

namespace wuneng::kernels {

inline constexpr int64_t wkv7_chunk = 16;
// The state before every so many rows of a segment is kept; the readings and the backward compute those
// before the chunks between anew. A GPU's arithmetic is cheaper than its memory.
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
  Tensor chunk_states;  // out [wkv7_kept_count, N, D, D]: the states that are kept, in the segments' order
  Tensor removed;       // out [T, N, D]: u_t = -S_{t-1} kappa_t, what each step takes out
  Tensor final;         // out [segments, N, D, D]; undefined: not wanted
};
WUNENG_KERNEL(wkv7_states, Wkv7StatesArgs);

// y[t, h] = S_t[head_state[h]] r[t, h] for the rows of the segments.
struct Wkv7ReadArgs {
  Wkv7Inputs in;
  Tensor chunk_states, removed;  // from wkv7_states
  std::vector<int> head_state;   // [R]: the state head that each reader reads, non-decreasing
  Tensor r;                      // [T, R, D]
  Tensor y;                      // [T, R, D] out
};
WUNENG_KERNEL(wkv7_read, Wkv7ReadArgs);
// y[t, h] = S_t[head_state[h]]^T r[t, h]
WUNENG_KERNEL(wkv7_read_transposed, Wkv7ReadArgs);

// Given pairs (dy, r), each [T, R, D], and the final state's gradient: gradients of the inputs and the
// readers, written (not added to) for the rows of the segments, and of the initial state.
struct Wkv7BackwardArgs {
  Wkv7Inputs in;
  Tensor chunk_states, removed;
  std::vector<int> head_state;
  struct Pair {
    Tensor dy, r;
    Tensor dr;  // out: S_t^T dy_t, r's gradient; undefined: not wanted
  };
  std::vector<Pair> readings;            // zero, one or two of them
  Tensor dfinal;                         // [segments, N, D, D]; undefined: zero
  Tensor dlog_w, dk, dv, dkappa, drate;  // [T, N, D] out
  Tensor dinitial;                       // [segments, N, D, D] out; undefined: not wanted
};
WUNENG_KERNEL(wkv7_backward, Wkv7BackwardArgs);

// The same recurrence token by token, forward only with one reading: the plain form that tests and benchmarks
// hold the chunked one against.
struct Wkv7RecurrentArgs {
  Wkv7Inputs in;
  std::vector<int> head_state;
  Tensor r, y;  // [T, R, D]
};
WUNENG_KERNEL(wkv7_recurrent, Wkv7RecurrentArgs);

}  // namespace wuneng::kernels

// The operators that models are written in: each computes with kernels and records its gradient on the tape.
// All but row_parallel are local to a rank; operators with communication are in parallel/tensor_parallel.h.
//
// Letters: T rows (tokens of packed documents), H heads, D channels of a head, I and O input and output
// channels.
#pragma once
#include <vector>

#include "kernels/attention.h"
#include "kernels/pointwise.h"
#include "kernels/rows.h"
#include "model/joint_gradients.h"
#include "parallel/parameter.h"
#include "runtime/comm.h"
#include "runtime/tape.h"

namespace wuneng::ops {

// A parameter that a configuration leaves out is a null pointer.
using P = const Parameter*;

// [T, I] -> [T, O], weight [O, I], bias [O], base [T, O]: x W^T + bias + base.
Var linear(Tape& tape, const Var& x, P weight, P bias = nullptr, const Var& base = {});
// The same with two weights [O, I] each: [T, 2 O], one product where they lie together
// (Parameter::joins_next).
Var linear_pair(Tape& tape, const Var& x, P first, P second);
Var add_bias(Tape& tape, const Var& x, P bias);  // [T, C]
// [T, H, I] -> [T, H, O], weight [H, O, I], base [T, H, O]: x_h W_h^T + base_h, in `to` if it is given.
// joint: where its weight's gradient is formed, with those of other calls.
Var head_linear(Tape& tape, const Var& x, P weight, const Var& base = {}, const Tensor& to = {},
                const JointGradientsPtr& joint = nullptr);
// [T, d] with weight [d], or [T, H, D] with [H D]. normed: the result, where it is there already.
Var rms_norm(Tape& tape, const Var& x, P weight, float eps, const Tensor& normed = {});
// a + b, and its norm: one pass.
std::pair<Var, Var> add_rms_norm(Tape& tape, const Var& a, const Var& b, P weight, float eps);
Var l2_norm(Tape& tape, const Var& x);  // over the last dimension
// The group norm with a group a head: weight and bias [H D], x [T, H, D].
Var group_norm(Tape& tape, const Var& x, P weight, P bias, float eps);
Var rope(Tape& tape, const Var& x,
         const Tensor& cos_sin);  // [T, H, D], cos_sin [2, T, D / 2]: kernels/rope.h
// The same of x + s_h added_h; scale s [H].
Var rope_of_sum(Tape& tape, const Var& x, const Var& added, P scale, const Tensor& cos_sin);
Var reshape(Tape& tape, const Var& x, Shape shape);

// The sum of products x [T, I] -> [T, O] whose I are cut over the ranks, over all ranks: equal on each.
// Formed in parts of rows, one summed while the next is multiplied. scatter: each rank gets its share of the
// sum's rows instead, [R, O] (parallel/sequence_parallel.h).
struct Product {
  Var x;
  P weight;  // [O, I]
};
Var row_parallel(Tape& tape, const Comm& tp, const std::vector<Product>& products, bool scatter = false);

Var add(Tape& tape, const Var& a, const Var& b, const Tensor& to = {});  // in `to` if it is given
Var silu(Tape& tape, const Var& x);
Var tanh(Tape& tape, const Var& x);
Var sigmoid(Tape& tape, const Var& x);
Var swiglu(Tape& tape, const Var& x);  // silu(a) b of x = (a, b): [T, 2 F] -> [T, F]
Var mix(Tape& tape, const Var& gate, const Var& a, const Var& b);  // gate a + (1 - gate) b
Var gate(Tape& tape, const Var& a, const Var& b);                  // a (1 + b)
Var concat(Tape& tape, const Var& a, const Var& b);                // along the last dimension

Var bias_sigmoid(Tape& tape, const Var& x, P bias, float scale);    // scale sigmoid(x + bias), [T, C]
Var key_scale(Tape& tape, const Var& key, const Var& rate, P k_a);  // key (1 + (rate - 1) k_a), [T, C]
Var token_shift(Tape& tape, const Var& x, P mu,
                const Tensor& document_boundaries);  // x + (before - x) mu, [T, C]; document_boundaries:
                                                     // kernels/channel.h
Var scale_channels(Tape& tape, const Var& x, P weight, float factor);  // factor w x, [T, H, D] with w [H D]
Var scale_heads(Tape& tape, const Var& x, P scale);                    // s_h x_h, [T, H, D]
Var add_scaled_heads(Tape& tape, const Var& base, const Var& x, P scale);  // base + s_h x_h

// base + (a_h . b_h) v_h, all [T, H, D]: kernels/bonus.h
Var bonus(Tape& tape, const Var& a, const Var& b, const Var& v, const Var& base);
// `count` copies of a parameter in f32, [count, ...].
Var copies(Tape& tape, P parameter, int64_t count);

bool is_identity(const std::vector<int>& map, int64_t heads);             // is every head in its place?
Var select_heads(Tape& tape, const Var& x, const std::vector<int>& map);  // y[:, h] = x[:, map[h]]
Var sum_heads(Tape& tape, const Var& x, const std::vector<int>& map,
              int64_t heads);  // y[:, map[h]] += x[:, h]

using Runs = std::vector<kernels::RowRun>;
Var pack_rows(Tape& tape, const Var& x, const Runs& runs);  // runs of rows, none twice, one after another
// Rows [0, counts[0]), the next counts[1] and so on, as views; and pieces one after another again.
std::vector<Var> split_rows(Tape& tape, const Var& x, const std::vector<int64_t>& counts);
// to: where the rows go [sum of counts, ..]; a piece that lies there in its place is not copied.
Var join_rows(Tape& tape, const std::vector<Var>& pieces, const Tensor& to = {});

// Causal attention; see kernels/attention.h, also for the table. q [Tq, H, D], k and v [Tk, G, D] -> [Tq, H,
// D], in `to` if it is given.
Var attention(Tape& tape, const Var& q, const Var& k, const Var& v,
              const std::vector<kernels::AttentionSegment>& segments, const std::vector<int>& kv_head,
              int64_t window, const Tensor& table = {}, const Tensor& to = {});

// One shard of a vocabulary-parallel embedding: zero for tokens of other ranks. tokens [T] i32 on the host ->
// [T, d] of type `activations`, which all that is computed from it has.
Var embedding(Tape& tape, const Tensor& tokens, P table, DType activations);

}  // namespace wuneng::ops

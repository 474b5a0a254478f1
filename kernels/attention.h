// Causal softmax attention over packed documents (model.md Eq. 12), over all earlier keys or the last ones.
// Scale D^-1/2, softmax in f32.
#pragma once
#include <vector>

#include "kernels/backend.h"

namespace wuneng::kernels {

// Consecutive query rows of one document. Query row q_begin + i attends to key rows [k_begin, k_begin +
// offset + i], with a window > 0 to the last `window` of them.
struct AttentionSegment {
  int64_t q_begin;  // first row in q
  int64_t q_count;
  int64_t k_begin;  // the document's first row in k and v
  int64_t offset;   // position of the first query row in its document
};

// Tq query rows, Tk key rows, H query heads, G key/value heads, D channels. q, k, v, out and their gradients
// are activations (kernels/backend.h): f32 on the CPU, on a GPU all f32 or all bf16.
// Pairs of a query and a key that a row of a segment sees, over all segments.
double attention_pairs(const std::vector<AttentionSegment>& segments, int64_t window);

struct AttentionForwardArgs {
  Tensor q;     // [Tq, H, D]
  Tensor k, v;  // [Tk, G, D]
  Tensor out;   // [Tq, H, D]
  Tensor lse;   // [Tq, H] f32: log-sum-exp of each row's scaled scores, for the backward
  std::vector<AttentionSegment> segments;  // rows of q outside all segments are not written
  std::vector<int> kv_head;                // [H]: the key/value head of each query head, non-decreasing
  int64_t window = 0;                      // see AttentionSegment; 0: all keys
  // Segments of one query are formed in a way of their own, which reads keys and values once for all heads
  // that share them, and leaves lse as it is. A GPU does that if all segments are of few queries.
  bool by_row = false;
  // [segments, 4] i32 on a GPU, of segments of one query: q_begin, q_count, k_begin and offset of each, read
  // in place of `segments`, of which only the number counts then. Undefined: as `segments` say.
  Tensor table;
};
// Two products of D channels for each pair; the backward has five.
inline double flops_of(const AttentionForwardArgs& a) {
  return 4.0 * double(a.q.dim(1) * a.q.dim(2)) * attention_pairs(a.segments, a.window);
}
WUNENG_KERNEL(attention_forward, AttentionForwardArgs);

// dq is overwritten in the rows of the segments; dk and dv are accumulated into.
struct AttentionBackwardArgs {
  Tensor q, k, v, out, lse;  // as in the forward
  Tensor dout;               // [Tq, H, D]
  Tensor dq;                 // [Tq, H, D]
  Tensor dk, dv;             // [Tk, G, D]
  std::vector<AttentionSegment> segments;
  std::vector<int> kv_head;
  int64_t window = 0;
};
inline double flops_of(const AttentionBackwardArgs& a) {
  return 10.0 * double(a.q.dim(1) * a.q.dim(2)) * attention_pairs(a.segments, a.window);
}
WUNENG_KERNEL(attention_backward, AttentionBackwardArgs);

}  // namespace wuneng::kernels

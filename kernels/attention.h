// Causal softmax attention over packed documents (model.md Eq. 12; Qwen2's). Scale D^-1/2, softmax in f32.
#pragma once
#include <vector>

#include "kernels/backend.h"

namespace wuneng::kernels {

// One run of consecutive query rows of one document. Query row q_begin + i sees key rows [k_begin, k_begin +
// offset + i].
struct AttentionSegment {
  int64_t q_begin;  // first row in q
  int64_t q_count;
  int64_t k_begin;  // the document's first row in k and v
  int64_t offset;   // the first query's position in its document
};

// Tq query rows, Tk key rows, H query heads, G key/value heads, D channels.
struct AttentionForwardArgs {
  Tensor q;     // [Tq, H, D] f32
  Tensor k, v;  // [Tk, G, D] f32
  Tensor out;   // [Tq, H, D] f32
  Tensor lse;   // [Tq, H] f32: log of each row's sum of exponentials, for the backward
  std::vector<AttentionSegment> segments;  // rows of q that no segment names are left as they are
  std::vector<int> kv_head;                // [H]: the key/value head of each query head, non-decreasing
};
WUNENG_KERNEL(attention_forward, AttentionForwardArgs);

// dq is written (rows named by the segments), dk and dv are added to.
struct AttentionBackwardArgs {
  Tensor q, k, v, out, lse;  // as above
  Tensor dout;               // [Tq, H, D]
  Tensor dq;                 // [Tq, H, D]
  Tensor dk, dv;             // [Tk, G, D]
  std::vector<AttentionSegment> segments;
  std::vector<int> kv_head;
};
WUNENG_KERNEL(attention_backward, AttentionBackwardArgs);

}  // namespace wuneng::kernels

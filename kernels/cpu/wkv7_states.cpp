// The recurrence of WKV-7 by chunks (notation of wkv7_chunk.h). Per chunk, with strictly lower triangles A_ak
// = tril(A K^T), A_ab = tril(A B^T):
//
//   U = (I - A_ab)^-1 (A S_0^T + A_ak V)        S_C = (S_0 + V^T K + U^T B) diag(e^G)
//
// The products with S_0 are formed transposed, a lane per row of the chunk, so that the state is read as it
// lies.
#include <algorithm>

#include "kernels/cpu/wkv7_chunk.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

class States {
 public:
  explicit States(const Wkv7StatesArgs& args)
      : args_(args),
        N_(args.in.k.dim(1)),
        c_(args.in.k.dim(2)),
        last_(W() * W()),
        wide_{Scratch(in_place() ? 0 : W() * W()), Scratch(in_place() ? 0 : W() * W())},
        At_(W() * kC),
        pairs_(2 * kC * kC),
        solve_(kC * kC),
        Pt_(W() * kC),
        Ut_(W() * kC) {}

  void run(const Wkv7Chain& chain) {
    float* state = place(chain.first_chunk, chain.head);
    load_state(args_.initial, chain.segment * N_ + chain.head, W(), state);
    for (int64_t at = 0; at < chain.count; at += kC) {
      const int64_t chunk = chain.first_chunk + at / kC, count = std::min(kC, chain.count - at),
                    next = at + count;
      const bool last = next == chain.count;
      if (!in_place()) store_state(state, W(), args_.chunk_states, chunk * N_ + chain.head);
      c_.load(args_.in, chain.begin + at, count, chain.head);
      if (!last) {
        Wkv7Chunk::prefetch(args_.in, chain.begin + next, std::min(kC, chain.count - next), chain.head);
        prefetch_state(args_.chunk_states, (chunk + 1) * N_ + chain.head);
      }
      remove(state);
      c_.store_rows(c_.U(), args_.removed, chain.head);
      if (last && !args_.final.defined()) break;
      float* after = last ? last_.data() : place(chunk + 1, chain.head);
      advance(state, after);
      state = after;
    }
    store_state(state, W(), args_.final, chain.segment * N_ + chain.head);
  }

 private:
  int64_t W() const { return c_.W; }
  bool in_place() const { return c_.D == W(); }

  // The state before a chunk as [W, W]: in chunk_states itself where its rows have W channels.
  float* place(int64_t chunk, int64_t head) {
    return in_place() ? args_.chunk_states.f32() + (chunk * N_ + head) * W() * W() : wide_[chunk % 2].data();
  }

  // U from the state before the chunk.
  void remove(const float* state) {
    transpose(kC, W(), c_.A.data(), W(), At_.data(), kC);
    // A_ak^T over A_ab^T [32, 16]: row j holds what the rows t > j see of it.
    multiply(2 * kC, kC, W(), {c_.KB.data(), W(), 1}, At_.data(), kC, pairs_.data(), kC);
    keep_causal_transposed(pairs_.data(), true);
    unit_inverse<true>(pairs_.data() + kC * kC, kC, solve_.data());
    multiply(W(), kC, W(), {state, W(), 1}, At_.data(), kC, Pt_.data(), kC);
    multiply_add(W(), kC, kC, {c_.V(), 1, W()}, pairs_.data(), kC, Pt_.data(), kC);
    multiply(W(), kC, kC, {Pt_.data(), kC, 1}, solve_.data(), kC, Ut_.data(), kC);
    transpose(W(), kC, Ut_.data(), kC, c_.U(), W());
  }

  // The state after the chunk.
  void advance(const float* state, float* after) {
    multiply_add_scaled(W(), W(), 2 * kC, {c_.VU.data(), 1, W()}, c_.KB.data(), W(), state, c_.total(), after,
                        W());
  }

  const Wkv7StatesArgs& args_;
  const int64_t N_;
  Wkv7Chunk c_;
  Scratch last_;           // [W, W]
  Scratch wide_[2];        // [W, W], of every other chunk
  Scratch At_;             // [W, 16]
  Scratch pairs_, solve_;  // [32, 16], [16, 16]
  Scratch Pt_, Ut_;        // [W, 16]
};

}  // namespace

void wkv7_states(const Stream&, const Wkv7StatesArgs& args) {
  const int64_t N = args.in.k.dim(1);
  parallel_for(N * wkv7_chunk_count(args.in.segments), 1, [&](int64_t begin, int64_t end) {
    States states(args);
    for (const Wkv7Chain& chain : chains_between(args.in.segments, N, begin, end)) states.run(chain);
  });
}

}  // namespace wuneng::kernels::cpu

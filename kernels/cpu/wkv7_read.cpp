// The two readings of WKV-7 (notation of wkv7_chunk.h). The states before the chunks are there, so chunks do
// not wait for each other.
//
//   y = S_t r      =  Q S_0^T + tril(Q K^T) V + tril(Q B^T) U
//   z = S_t^T u    = (u S_0   + tril(u V^T) K + tril(u U^T) B) o e^g
//
// One form with the parts exchanged: x M + tril(x [first; second]^T) [other first; other second]. It is
// formed transposed, a lane per row of the chunk, as in wkv7_states: every left factor is read as it lies.
#include <algorithm>

#include "kernels/cpu/wkv7_chunk.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

class Reading {
 public:
  Reading(const Wkv7ReadArgs& args, bool transposed)
      : args_(args),
        transposed_(transposed),
        N_(args.in.k.dim(1)),
        c_(args.in.k.dim(2)),
        wide_(W() * W()),
        pairs_(2 * kC * kC),
        x_(kC * W()),
        xt_(W() * kC),
        yt_(W() * kC),
        y_(kC * W()) {}

  // Readers [first, last) of state head n on rows [row, row + count), which are chunk `chunk`.
  void run(int64_t chunk, int64_t row, int64_t count, int64_t n, int first, int last) {
    c_.load(args_.in, row, count, n);
    c_.load_removed(args_.removed, n);
    const float* state = wide_state(args_.chunk_states, chunk * N_ + n, W(), wide_);
    const Left matrix = transposed_ ? Left{state, 1, W()} : Left{state, W(), 1};
    const Scratch &seen = transposed_ ? c_.VU : c_.KB, &given = transposed_ ? c_.KB : c_.VU;
    for (int h = first; h < last; ++h) {
      transposed_ ? c_.load_rows(args_.r, h, x_.data()) : c_.load_scaled(args_.r, h, x_.data());
      transpose(kC, W(), x_.data(), W(), xt_.data(), kC);
      multiply(2 * kC, kC, W(), {seen.data(), W(), 1}, xt_.data(), kC, pairs_.data(), kC);
      keep_causal_transposed(pairs_.data(), false);
      multiply(W(), kC, W(), matrix, xt_.data(), kC, yt_.data(), kC);
      multiply_add(W(), kC, 2 * kC, {given.data(), 1, W()}, pairs_.data(), kC, yt_.data(), kC);
      transpose(W(), kC, yt_.data(), kC, y_.data(), W());
      transposed_ ? c_.store_scaled(y_.data(), args_.y, h) : c_.store_rows(y_.data(), args_.y, h);
    }
  }

  void prefetch(int64_t chunk, int64_t row, int64_t count, int64_t n) const {
    Wkv7Chunk::prefetch(args_.in, row, count, n);
    Wkv7Chunk::prefetch(args_.removed, row, count, n);
    prefetch_state(args_.chunk_states, chunk * N_ + n);
  }

 private:
  int64_t W() const { return c_.W; }

  const Wkv7ReadArgs& args_;
  const bool transposed_;
  const int64_t N_;
  Wkv7Chunk c_;
  Scratch wide_;     // [W, W]
  Scratch pairs_;    // [32, 16]
  Scratch x_;        // [16, W]
  Scratch xt_, yt_;  // [W, 16]
  Scratch y_;        // [16, W]
};

void read(const Wkv7ReadArgs& args, bool transposed) {
  const int64_t N = args.in.k.dim(1);
  const auto readers = readers_of(args.head_state, N);
  std::vector<Wkv7Segment> chunks;  // the rows of each
  for (const Wkv7Segment& s : args.in.segments)
    for (int64_t at = 0; at < s.count; at += kC) chunks.push_back({s.begin + at, std::min(kC, s.count - at)});
  parallel_for(static_cast<int64_t>(chunks.size()) * N, 1, [&](int64_t begin, int64_t end) {
    Reading reading(args, transposed);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t chunk = i / N, n = i % N;
      const auto [first, last] = readers[n];
      if (i + 1 < end)
        reading.prefetch((i + 1) / N, chunks[(i + 1) / N].begin, chunks[(i + 1) / N].count, (i + 1) % N);
      if (first < last) reading.run(chunk, chunks[chunk].begin, chunks[chunk].count, n, first, last);
    }
  });
}

}  // namespace

void wkv7_read(const Stream&, const Wkv7ReadArgs& args) { read(args, false); }
void wkv7_read_transposed(const Stream&, const Wkv7ReadArgs& args) { read(args, true); }

}  // namespace wuneng::kernels::cpu

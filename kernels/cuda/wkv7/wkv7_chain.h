// The sequential part of WKV-7: a kernel that processes the chunks of a chain (one segment, one state head)
// in order, the state forwards or its gradient backwards. Everything else is computed by kernels that process
// chunks in parallel.
//
// An iteration of the pipeline, from one barrier to the next, updates M [value, key] by one pair of one
// chunk. In the same iteration other warps prepare what later chunks need from the inputs alone. With the
// rows L, R, G, H [16, D] of a chunk, in the coordinates of kernels/cpu/wkv7_chunk.h, both directions take
// the same step (formulas in kernels/cpu/wkv7_states.cpp and wkv7_backward.cpp):
//
//   N = (I - mask(L R^T))^-1    W = N L    X_p = N mask(H_p L^T)^T
//   M~ = M W^T + sum_p G_p^T X_p^T         M += sum_p G_p^T H_p + M~ R
//
// Forwards M is S before the chunk, M~ = U^T, L = A, R = B, and there is one pair: G = V, H = K; then M = M
// diag(e^G). Backwards M is dS diag(e^G) with dS the gradient after the chunk, M~ = dP^T, L = B, R = A, and
// each reading is a pair: G = dY, H = Q; a chunk takes as many iterations as there are pairs.
//
// The rows of M are independent: several blocks may share the values of a chain, 16 or more each, and each
// recomputes N, W and X, on multiprocessors that would otherwise be idle. Roles of the warps: key warps, 32
// keys each, load rows from registers to shared memory three iterations before their step and multiply W = N
// L one iteration before it; in between, one warp computes the inverse N. State warps hold 16 rows of M each.
#pragma once
#include "kernels/cuda/wkv7/wkv7_state.h"
#include "runtime/cuda/device.h"

namespace wuneng::kernels::cuda {

// One pair of rows [16, D], from head `head` of g and h [T, heads, D].
template <class T>
struct ChainPair {
  const T *g, *h;  // null: zeros
  int64_t heads, head;
};

// Kernel arguments of both directions.
template <class T>
struct Chains {
  Inputs<T> in;
  // [segments, 4]: begin, count, index of the first stored M, `every` (rows between two stored M). Forwards M
  // is stored before rows 0, every, 2 every, ...; backwards after the rows down to row every, 2 every, ...,
  // and the chain ends at row every; if every is 0 the chain covers all rows and M is stored at its end.
  const int64_t* segments;
  const float* start;  // M [segments, N, D, D]; null: zeros
  float* kept;         // out [stored M, N, D, D]
  const float* added;  // backwards, as kept: added to M where M is stored; null: none
};

template <class T, int W>
struct ChainShared {
  static constexpr int P = tile_pitch(W), kSmall = tile_pitch(kTile), kStages = 4;
  struct Step {
    alignas(16) T L[kC * P], R[kC * P], W_[kC * P];  // [16, P]
    alignas(16) T N[2][kC * kSmall];                 // N and its rounding error
    float total[W];                                  // e^G
  } steps[kStages];
  struct Pair {
    alignas(16) T H[kC * P], G[kC * P];  // [16, P]; of G only the block's values
    alignas(16) T X[2][kC * kSmall];
  } pairs[kStages];
};

template <class T, int W>
constexpr int kMostChainValues = sizeof(T) == 2 ? W
                                                : std::min(W, 32);  // per block; more would spill registers
template <class T, int W>
constexpr int kMostChainThreads = W + wuneng::cuda::kWarp + 2 * kMostChainValues<T, W>;

// Values per block: halved while the launch would have at most one block per multiprocessor.
template <class T, int W>
int chain_values(int64_t chains, int multiprocessors) {
  int values = kMostChainValues<T, W>;
  while (values > kTile && chains * (W / values) * 2 <= multiprocessors) values /= 2;
  return values;
}

// A block's part of a chain. Source defines the pairs of a chain: kBackward; kPairs, whether there are any;
// pairs(n), at least 1; pair(n, i).
template <class T, int W, class Source>
struct ChainBlock {
  static constexpr bool kBackward = Source::kBackward;
  static constexpr int P = tile_pitch(W), kSmall = tile_pitch(kTile), kKeyWarps = W / (2 * kTile);
  using Shared = ChainShared<T, W>;

  const Inputs<T>& in;
  const Source& source;
  Shared& s;
  const int n, pairs;
  const int64_t begin;
  const int count;  // rows of the chain
  const int first_value, values;

  struct Position {
    int chunk, pair;  // chunks numbered in the order of processing
  };
  __device__ Position position(int iteration) const { return {iteration / pairs, iteration % pairs}; }
  // The first row of a chunk in the chain, and its number of rows.
  __device__ int first_row(int chunk) const { return (kBackward ? (count - 1) / kC - chunk : chunk) * kC; }
  __device__ int rows(int chunk) const { return min(kC, count - first_row(chunk)); }
  __device__ typename Shared::Step& step(int chunk) const { return s.steps[chunk % Shared::kStages]; }
  __device__ typename Shared::Pair& pair(int iteration) const { return s.pairs[iteration % Shared::kStages]; }
};

// A thread of the key warps handles two adjacent key channels and one half of the rows.
template <class T, int W, class Source>
struct KeyWarp {
  using Block = ChainBlock<T, W, Source>;
  static constexpr bool kBackward = Source::kBackward;
  static constexpr int P = Block::P, kSmall = Block::kSmall, kHalf = kC / 2;
  const Block& b;

  Two<T> earlier[kHalf], log_w[kHalf], kappa[kHalf], rate[kHalf], h[kHalf], g[kHalf];

  __device__ static int channel() { return static_cast<int>(threadIdx.x) % (W / 2) * 2; }
  __device__ static int first() { return static_cast<int>(threadIdx.x) / (W / 2) * kHalf; }

  // From global memory into registers, for load() in the next iteration.
  __device__ void prefetch(int iteration) {
    const auto [chunk, p] = b.position(iteration);
    const Inputs<T>& in = b.in;
    const int c = channel(), real = c < in.D ? b.rows(chunk) : 0;
    const int64_t row = b.begin + b.first_row(chunk), at = (row * in.N + b.n) * in.D + c;
    const int stride = static_cast<int>(in.N) * in.D;
    const ChainPair<T> pair = b.source.pair(b.n, p);
    const auto of_pair = [&, pair_at = (row * pair.heads + pair.head) * in.D + c](const T* x) {
      return x ? x + pair_at : nullptr;
    };
    const T *const from_h = of_pair(pair.h), *const from_g = of_pair(pair.g);
    const int pair_stride = static_cast<int>(pair.heads) * in.D;
    const bool mine = c >= b.first_value && c < b.first_value + b.values;
    const int real_h = pair.h ? real : 0, real_g = pair.g && mine ? real : 0;
    const auto take = [](const T* x, int t, int step, int there) {
      return t < there ? Two<T>::from(x + t * step) : Two<T>{};
    };
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const int t = first() + i;
      earlier[i] = take(in.log_w + at, i, stride, min(real, first()));
      log_w[i] = take(in.log_w + at, t, stride, real);
      if (p == 0)
        kappa[i] = take(in.kappa + at, t, stride, real), rate[i] = take(in.rate + at, t, stride, real);
      if constexpr (Source::kPairs) {
        h[i] = take(from_h, t, pair_stride, real_h);
        g[i] = take(from_g, t, pair_stride, real_g);
      }
    }
  }

  // From registers to shared memory, in decayed coordinates.
  __device__ void load(int iteration) {
    const auto [chunk, p] = b.position(iteration);
    auto& step = b.step(chunk);
    auto& pair = b.pair(iteration);
    T *const A = kBackward ? step.R : step.L, *const B = kBackward ? step.L : step.R;
    const int c = channel(), value = c - b.first_value;
    float sum[2] = {}, before[2];
#pragma unroll
    for (int i = 0; i < kHalf; ++i) sum[0] += earlier[i][0], sum[1] += earlier[i][1];
    before[0] = decay<T>(sum[0]), before[1] = decay<T>(sum[1]);
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const int at = (first() + i) * P + c;
      float up[2], down[2];
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        sum[x] += log_w[i][x];
        up[x] = decay<T>(sum[x]), down[x] = decay<T>(-sum[x]);
      }
      if (p == 0) {
        Two<T>(-kappa[i][0] * before[0], -kappa[i][1] * before[1]).to(A + at);
        Two<T>(kappa[i][0] * rate[i][0] * down[0], kappa[i][1] * rate[i][1] * down[1]).to(B + at);
      }
      if constexpr (Source::kPairs) {
        const float(&scale)[2] = kBackward ? up : down;
        Two<T>(h[i][0] * scale[0], h[i][1] * scale[1]).to(pair.H + at);
        if (value >= 0 && value < b.values) g[i].to(pair.G + at - b.first_value);
      }
      before[0] = up[0], before[1] = up[1];
    }
    if (p == 0 && first()) step.total[c] = before[0], step.total[c + 1] = before[1];
  }

  // W = N L for the warp's keys.
  __device__ void apply_inverse(int iteration) {
    const auto [chunk, p] = b.position(iteration);
    if (p > 0) return;
    auto& step = b.step(chunk);
    const int warp = static_cast<int>(threadIdx.x) / wuneng::cuda::kWarp;
#pragma unroll
    for (int own = warp * 2 * kTile; own < (warp + 1) * 2 * kTile; own += kTile) {
      const Fragment<T> L = load_tile<true>(step.L + own, P);
      Tile product{};
      if constexpr (sizeof(T) == 2) add_product(product, load_tile(step.N[1], kSmall), L);
      add_product(product, load_tile(step.N[0], kSmall), L);
      store_tile(step.W_ + own, P, fragment<T>(product));
    }
  }
};

// The warp that computes the inverse N and X.
template <class T, int W, class Source>
struct InverseWarp {
  using Block = ChainBlock<T, W, Source>;
  static constexpr bool kBackward = Source::kBackward;
  static constexpr int P = Block::P, kSmall = Block::kSmall;
  const Block& b;
  Tile N;

  // Strict causal mask of L R^T; anti-causal backwards.
  __device__ static Tile mask(const Tile& x, bool upper) {
    Tile out;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      out.x[i] = (upper ? tile_column(i) > tile_row(i) : tile_column(i) < tile_row(i)) ? x.x[i] : 0.0f;
    return out;
  }

  __device__ void invert(int iteration) {
    const auto [chunk, p] = b.position(iteration);
    auto& step = b.step(chunk);
    auto& pair = b.pair(iteration);
    Tile x{}, transposed{}, z{};
#pragma unroll(sizeof(T) == 2 ? 4 : 1)
    for (int at = 0; at < W; at += kTile) {
      const Fragment<T> L = load_tile(step.L + at, P), R = load_tile(step.R + at, P);
      if constexpr (Source::kPairs) add_product(z, load_tile(pair.H + at, P), L);
      if (p > 0) continue;
      add_product(x, L, R);
      add_product(transposed, R, L);
    }
    if (p == 0) {
      N = unit_inverse<T>(mask(x, kBackward), mask(transposed, !kBackward));
      const Fragment<T> rounded = fragment<T>(N);
      store_tile(step.N[0], kSmall, rounded);
      if constexpr (sizeof(T) == 2) store_tile(step.N[1], kSmall, residual(N, rounded));
    }
    if constexpr (!Source::kPairs) return;
    // H_p L^T: masked to later rows of L; backwards to rows of L up to its own.
    Tile X{};
    add_exact(X, N, fragment<T>(kBackward ? causal(z, false) : mask(z, true)));
    const Fragment<T> rounded = fragment<T>(X);
    store_tile(pair.X[0], kSmall, rounded);
    if constexpr (sizeof(T) == 2) store_tile(pair.X[1], kSmall, residual(X, rounded));
  }
};

// A warp with 16 rows of M.
template <class T, int W, class Source>
struct StateWarp {
  using Block = ChainBlock<T, W, Source>;
  static constexpr bool kBackward = Source::kBackward;
  static constexpr int P = Block::P, kSmall = Block::kSmall;
  const Block& b;
  const int own;  // its first value, relative to the block's values
  State<T, W, false> m;
  Tile x;  // M~

  __device__ void scale(const float* total) {
#pragma unroll
    for (int t = 0; t < W / kTile; ++t)
#pragma unroll
      for (int i = 0; i < 8; ++i) m.m[t].x[i] *= total[t * kTile + tile_column(i)];
  }

  // Calls removed(rounded M~) after the chunk's last pair.
  template <class F>
  __device__ void advance(int iteration, F removed) {
    const auto [chunk, p] = b.position(iteration);
    auto& step = b.step(chunk);
    auto& pair = b.pair(iteration);
    if (p == 0) {
      if (kBackward) scale(step.total);
      x = {};
      Tile odd{};
#pragma unroll
      for (int t = 0; t < W / kTile; ++t)
        add_product(t % 2 ? odd : x, fragment<T>(m.m[t]), load_tile(step.W_ + t * kTile, P));
#pragma unroll
      for (int i = 0; i < 8; ++i) x.x[i] += odd.x[i];
    }
    if constexpr (Source::kPairs) {
      const Fragment<T> G = load_tile<true>(pair.G + own, P);
      if constexpr (sizeof(T) == 2) add_product(x, G, load_tile(pair.X[1], kSmall));
      add_product(x, G, load_tile(pair.X[0], kSmall));
#pragma unroll
      for (int t = 0; t < W / kTile; ++t) add_product(m.m[t], G, load_tile<true>(pair.H + t * kTile, P));
    }
    if (p + 1 < b.pairs) return;
    const Fragment<T> rounded = fragment<T>(x);
    removed(rounded);
#pragma unroll
    for (int t = 0; t < W / kTile; ++t) add_product(m.m[t], rounded, load_tile<true>(step.R + t * kTile, P));
    if (!kBackward) scale(step.total);
  }
};

// Grid (segment, state head, range of values).
template <class T, int W, class Source>
__global__ void __launch_bounds__(kMostChainThreads<T, W>, 1) chain_kernel(Chains<T> a, Source source) {
  using wuneng::cuda::kWarp;
  using Block = ChainBlock<T, W, Source>;
  constexpr bool kBackward = Source::kBackward;
  const int64_t* const segment = a.segments + 4 * blockIdx.x;
  const int n = blockIdx.y, count = static_cast<int>(segment[1]), every = static_cast<int>(segment[3]);
  const int values = (blockDim.x / kWarp - Block::kKeyWarps - 1) * kTile;
  const Block b{a.in,
                source,
                *wuneng::cuda::shared_memory<ChainShared<T, W>>(),
                n,
                source.pairs(n),
                segment[0],
                count,
                static_cast<int>(blockIdx.z) * values,
                values};
  const int chunks = (count + kC - 1) / kC - (kBackward ? every / kC : 0), iterations = chunks * b.pairs;
  if (iterations <= 0) return;

  // Software pipeline: prefetch 4 iterations before a step, load 3, invert 2, apply_inverse 1. Each role has
  // a loop of its own, so that registers are not shared between roles; __syncthreads counts arrivals of
  // warps, in whatever loop they are.
  const int warp = threadIdx.x / kWarp;
  const auto within = [&](int iteration) { return iteration >= 0 && iteration < iterations; };
  if (warp < Block::kKeyWarps) {
    KeyWarp<T, W, Source> keys{b};
    for (int iteration = -4; iteration < iterations; ++iteration) {
      if (within(iteration + 3)) keys.load(iteration + 3);
      if (within(iteration + 4)) keys.prefetch(iteration + 4);
      if (within(iteration + 1)) keys.apply_inverse(iteration + 1);
      __syncthreads();
    }
  } else if (warp == Block::kKeyWarps) {
    InverseWarp<T, W, Source> between{b};
    for (int iteration = -4; iteration < iterations; ++iteration) {
      if (within(iteration + 2)) between.invert(iteration + 2);
      __syncthreads();
    }
  } else {
    const int own = (warp - Block::kKeyWarps - 1) * kTile, value = b.first_value + own, D = a.in.D;
    const int64_t square = int64_t{D} * D, chain = blockIdx.x * a.in.N + n;
    const auto keep = [&](auto& state, int place) {
      const int64_t at = ((segment[2] + place) * a.in.N + n) * square;
      if (kBackward && a.added) state.add(a.added + at, D, value);
      state.store(a.kept + at, D, value);
    };
    StateWarp<T, W, Source> state{b, own};
    state.m.load(a.start ? a.start + chain * square : nullptr, D, value);
    for (int iteration = -4; iteration < iterations; ++iteration) {
      if (iteration >= 0) {
        const auto [chunk, pair] = b.position(iteration);
        const int row = b.first_row(chunk), end = row + kC;
        if (pair == 0) {
          if (!kBackward && row % every == 0) keep(state.m, row / every);
          if (kBackward && every > 0 && end % every == 0 && end < count) keep(state.m, end / every - 1);
        }
        state.advance(iteration, [&](const Fragment<T>& rounded) {
          source.removed(rounded, b.begin + row, b.rows(chunk), n, D, value);
        });
      }
      __syncthreads();
    }
    if (kBackward) keep(state.m, 0);
    source.finish(state.m, chain, D, value);
  }
}

template <class T, int W, class Source>
void launch_chains(const Stream& stream, const char* name, const Chains<T>& chains, int64_t segments,
                   const Source& source) {
  const int values =
      chain_values<T, W>(segments * chains.in.N, wuneng::cuda::multiprocessors(stream.device.index));
  wuneng::cuda::launch(stream, name, chain_kernel<T, W, Source>, dim3(segments, chains.in.N, W / values),
                       dim3(W + wuneng::cuda::kWarp + 2 * values), sizeof(ChainShared<T, W>), chains, source);
}

}  // namespace wuneng::kernels::cuda

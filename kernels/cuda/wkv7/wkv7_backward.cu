// The backward, by chunks from the last to the first (formulas in kernels/cpu/wkv7_backward.cpp). A warp owns
// 16 keys: the columns of dS of these keys, in registers, and their part of dk, db, da; and 16 values: their
// part of dV, dU and dP. All are stored transposed, [channel, t], in the layout of the accumulators.
//
// The gradient of the decays is computed from gradients that are available already. The gradient that passes
// row t, between the writes before it and the readings after it, is the one that passes the chunk's first
// row, plus the contributions of the writes before t, minus those of the readings:
//   dlog_w_t = sum_v E o S_0 + sum_i (Q_i o dY_i S_0 + A_i o dP_i S_0)
//              + sum_{s<t} (K_s o dk_s + B_s o db_s - Q_s o dq_s) - sum_{s<=t} A_s o da_s
// with dq_i, da_i the gradients of Q_i, A_i (including the parts from S_0, hence the sum in the first line).
// Unlike sums over the whole document these lose no precision: within a chunk the terms that cancel are of
// the size of the result, and both are computed from the same rounded operands. Limits and counts:
// docs/gpu.md.
#include "kernels/cuda/wkv7/wkv7_pieces.h"
#include "kernels/cuda/wkv7/wkv7_state.h"
#include "kernels/cuda/wkv7/wkv7_tables.h"
#include "runtime/cuda/device.h"

namespace wuneng::kernels::cuda {
namespace {

constexpr int kWarp = wuneng::cuda::kWarp;
constexpr int kGroup = kKept / kC;  // chunks between two stored states
// Blocks that run at the same time: two of 256 threads per multiprocessor. Each needs a Scratch.
int64_t most_blocks(Device device, int W) {
  return int64_t{wuneng::cuda::multiprocessors(device.index)} * 256 / W;
}

template <class T>
struct Gradients {
  T *dlog_w, *dk, *dv, *dkappa, *drate;  // [T, N, D]
  float* dinitial;
};

template <class T, int W>
struct Shared {
  static constexpr int kSmall = tile_pitch(kTile);
  Chunk<T, W> c;
  alignas(16) T dY[kC * Chunk<T, W>::P], Q[kC * Chunk<T, W>::P];  // [16, P], of one reader
  union {
    alignas(16) T E[W * Chunk<T, W>::P];  // [key, value]
    Tile sums[3][2 * W];                  // afterwards, per thread: see Sum
  };
  alignas(16) T dP[W * kSmall];  // [value, t]
  alignas(16) T A_ak[kC * kSmall], inverse[kC * kSmall];
  alignas(16) T pairs[2][kC * kSmall], dpairs[2][kC * kSmall];  // A_qk, A_qb; dA_qk, dA_qb
  alignas(16) T dP_pairs[2][kC * kSmall];                       // dA_ak, dA_ab
};

// Per-block scratch in global memory, indexed by thread; small enough for L2.
template <class T, int W>
struct Scratch {
  Fragment<T> states[kGroup][W / kTile][2 * W];  // the states before the chunks of a group
  Tile dS[W / kTile][2 * W];                     // dS while the states are computed
};

// Per-key sums [key, t] in shared memory: together with dS they do not fit in registers. kPassed: the
// contribution of row t to the gradient of the decays after it.
enum Sum { kDk, kDb, kPassed };

template <class T, int W>
struct Backward {
  static constexpr int P = Chunk<T, W>::P, kTiles = W / kTile, kSmall = Shared<T, W>::kSmall;
  const Inputs<T>& in;
  Shared<T, W>& s;
  Scratch<T, W>& scratch;
  const int n, warp;
  int own;  // the warp's first channel

  State<T, W, true> dS;       // then E, then dS_0
  const Fragment<T>* states;  // S_0's tiles [key, value], 2 W apart
  int row, C;
  Tile dV, dU;    // [value, t]
  float base[2];  // for keys own + lane / 4 and + 8: the term common to all rows, this lane's part of the sum

  __device__ Fragment<T> own_rows(const T* x) const { return load_tile<true>(x + own, P); }  // [channel, t]
  __device__ Fragment<T> small(const T* x) const { return load_tile(x, kSmall); }
  __device__ Fragment<T> small_transposed(const T* x) const { return load_tile<true>(x, kSmall); }

  // Recomputes the states before the chunks of a group from the stored one, into scratch.
  __device__ void compute_states(const float* kept, int begin, int count, const T* removed) {
#pragma unroll
    for (int b = 0; b < kTiles; ++b) scratch.dS[b][threadIdx.x] = dS.m[b];
    asm volatile("" ::: "memory");  // otherwise the compiler keeps dS in registers too
    State<T, W, true> state;
    state.load(kept, in.D, own);
    for (int at = 0; at < count; at += kC) {
#pragma unroll
      for (int b = 0; b < kTiles; ++b) scratch.states[at / kC][b][threadIdx.x] = fragment<T>(state.m[b]);
      if (at + kC >= count) break;
      s.c.load(in, begin + at, kC, n, removed);
      s.c.prefetch(in, begin + at + kC, min(kC, count - at - kC), n, removed);
      __syncthreads();
      state.advance(s.c, own);
      __syncthreads();
    }
#pragma unroll
    for (int b = 0; b < kTiles; ++b) dS.m[b] = scratch.dS[b][threadIdx.x];
  }

  __device__ void load_reading(const Reading<T>& reading, int64_t R, int h) {
    s.c.load_rows(reading.dy, row, C, R, h, in.D, s.dY, false);
    s.c.load_rows(reading.r, row, C, R, h, in.D, s.Q, true);
  }

  // Tiles that all warps need, each computed by one warp.
  __device__ void removal_tiles() {
    if (warp == 0)
      store_tile(s.A_ak, kSmall, fragment<T>(causal(product_of_rows<T, W>(s.c.A, s.c.K()), true)));
    if (warp == kTiles - 1) store_tile(s.inverse, kSmall, fragment<T>(removal_inverse(s.c)));
  }
  __device__ void reading_tiles() {
    for (int half = 0; half < 2; ++half)
      if (warp == (half + 1) % kTiles)
        store_tile(s.pairs[half], kSmall,
                   fragment<T>(causal(product_of_rows<T, W>(s.Q, s.c.KB + half * kC * P), false)));
    for (int half = 0; half < 2; ++half)
      if (warp == (half + 3) % kTiles)
        store_tile(s.dpairs[half], kSmall,
                   fragment<T>(causal(product_of_rows<T, W>(s.dY, s.c.VU + half * kC * P), false)));
  }

  // E = dS diag(e^G), in registers and in shared memory.
  __device__ void through_decay() {
#pragma unroll
    for (int b = 0; b < kTiles; ++b) {
#pragma unroll
      for (int i = 0; i < 8; ++i) dS.m[b].x[i] *= s.c.total()[own + tile_row(i)];
      store_tile(s.E + own * P + b * kTile, P, fragment<T>(dS.m[b]));
    }
  }

  // Gradient of the values through the state after the chunk, through a reading, and through the removal.
  __device__ void values_through_state() {
    dV = {}, dU = {};
#pragma unroll 2
    for (int b = 0; b < kTiles; ++b) {
      const Fragment<T> E = load_tile<true>(s.E + b * kTile * P + own, P);
      add_product(dV, E, load_tile(s.c.K() + b * kTile, P));
      add_product(dU, E, load_tile(s.c.B() + b * kTile, P));
    }
  }
  __device__ void values_through_reading() {
    const Fragment<T> dY = own_rows(s.dY);
    add_product(dV, dY, small_transposed(s.pairs[0]));
    add_product(dU, dY, small_transposed(s.pairs[1]));
  }
  __device__ void values_through_removal(T* dv) {
    Tile dP{};
    add_exact(dP, dU, small_transposed(s.inverse));
    const Fragment<T> rounded = fragment<T>(dP);
    store_tile(s.dP + own * kSmall, kSmall, rounded);
    add_product(dV, rounded, small_transposed(s.A_ak));
    rows().store(dv, fragment<T>(dV));
  }

  // Gradient of the keys through the same three.
  __device__ void keys_through_state() {
    base[0] = base[1] = 0;
    Tile dk{}, db{};
#pragma unroll
    for (int b = 0; b < kTiles; ++b) {
      const Fragment<T> E = fragment<T>(dS.m[b]);
      add_product(dk, E, load_tile(s.c.V() + b * kTile, P));
      add_product(db, E, load_tile(s.c.U() + b * kTile, P));
      shared_by_all(dS.m[b], to_tile(states[b * 2 * W]));
    }
    sum(kDk) = dk, sum(kDb) = db, sum(kPassed) = {};
  }
  __device__ void keys_through_reading(T* dr, int64_t R, int h) {
    const Fragment<T> Q = own_rows(s.Q);
    Tile dq{};
#pragma unroll
    for (int b = 0; b < kTiles; ++b) add_product(dS.m[b], Q, load_tile<true>(s.dY + b * kTile, P));
#pragma unroll 2
    for (int b = 0; b < kTiles; ++b) add_product(dq, states[b * 2 * W], load_tile(s.dY + b * kTile, P));
    shared_by_all(to_tile(Q), dq);
    through_pairs(Q, s.dpairs, dq);
    if (dr) {
      Tile scaled = dq;
#pragma unroll
      for (int i = 0; i < 8; ++i) scaled.x[i] *= decays(1)[i];
      TileRows<T>(row, C, R, h, in.D, own).store(dr, fragment<T>(scaled));
    }
    Tile passed = sum(kPassed);
    add_terms(passed, Q, dq, -1);
    sum(kPassed) = passed;
  }
  // dA_ak and dA_ab, one warp each.
  __device__ void dP_tiles() {
    for (int half = 0; half < 2; ++half)
      if (warp == (half + 1) % kTiles) {
        Tile sum{};
#pragma unroll 2
        for (int b = 0; b < kTiles; ++b)
          add_product(sum, small_transposed(s.dP + b * kTile * kSmall),
                      load_tile(s.c.VU + half * kC * P + b * kTile, P));
        store_tile(s.dP_pairs[half], kSmall, fragment<T>(causal(sum, true)));
      }
  }
  __device__ void keys_through_removal(const Gradients<T>& out) {
    const Fragment<T> A = own_rows(s.c.A);
    Tile da{};
#pragma unroll
    for (int b = 0; b < kTiles; ++b) add_product(dS.m[b], A, small(s.dP + b * kTile * kSmall));
#pragma unroll 2
    for (int b = 0; b < kTiles; ++b)
      add_product(da, states[b * 2 * W], small_transposed(s.dP + b * kTile * kSmall));
    shared_by_all(to_tile(A), da);
    __syncthreads();
    through_pairs(A, s.dP_pairs, da);
    finish(A, da, out);
  }

  // Adds sum over the columns of x o y to the term of dlog_w that all rows share.
  __device__ void shared_by_all(const Tile& x, const Tile& y) {
#pragma unroll
    for (int i = 0; i < 8; ++i) base[i / 2 % 2] += x.x[i] * y.x[i];
  }
  // Gradients from the products of X with K and with B: dx += (dpairs_0 K + dpairs_1 B)^T, dk += (dpairs_0^T
  // X)^T, db likewise.
  __device__ void through_pairs(const Fragment<T>& X, const T (&dpairs)[2][kC * kSmall], Tile& dx) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Tile& kept = sum(half ? kDb : kDk);
      Tile total = kept;
      add_product(total, X, small_transposed(dpairs[half]));
      kept = total;
      add_product(dx, own_rows(s.c.KB + half * kC * P), small(dpairs[half]));
    }
  }
  __device__ Tile& sum(Sum which) { return s.sums[which][threadIdx.x]; }
  // sum += sign x o y
  __device__ static void add_terms(Tile& sum, const Fragment<T>& x, const Tile& y, float sign) {
    const Tile wide = to_tile(x);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.x[i] += sign * wide.x[i] * y.x[i];
  }

  __device__ static Tile product_of(const Tile& x, Tile y) {
#pragma unroll
    for (int i = 0; i < 8; ++i) y.x[i] *= x.x[i];
    return y;
  }

  // Location of the warp's channels in the inputs and their gradients.
  __device__ TileRows<T> rows() const { return {row, C, in.N, n, in.D, own}; }
  // [i]: e^{g_t} for element i [channel, t]; with later = 0 e^{g_{t-1}}.
  __device__ auto decays(int later) const {
    struct Decays {
      const float* from;
      __device__ float operator[](int i) const { return from[tile_column(i) * W + tile_row(i)]; }
    };
    return Decays{s.c.grow + later * W + own};
  }

  // Converts from decayed coordinates and stores the results.
  __device__ void finish(const Fragment<T>& A, const Tile& da, const Gradients<T>& out) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      base[half] += __shfl_xor_sync(~0u, base[half], 1);
      base[half] += __shfl_xor_sync(~0u, base[half], 2);
    }
    const TileRows<T> rows = this->rows();
    Tile passed = sum(kPassed);
    // Adds the gradient of K or B to kPassed and returns it without the decay.
    const auto undecayed = [&](Sum which, const T* X) {
      Tile d = sum(which);
      add_terms(passed, own_rows(X), d, 1);
#pragma unroll
      for (int i = 0; i < 8; ++i) d.x[i] *= reciprocal<T>(decays(1)[i]);
      return d;
    };
    rows.store(out.dk, fragment<T>(undecayed(kDk, s.c.K())));
    const Tile db = undecayed(kDb, s.c.B());
    rows.store(out.drate, fragment<T>(product_of(to_tile(rows.load(in.kappa)), db)));
    Tile dkappa = product_of(to_tile(rows.load(in.rate)), db);
#pragma unroll
    for (int i = 0; i < 8; ++i) dkappa.x[i] -= da.x[i] * decays(0)[i];
    rows.store(out.dkappa, fragment<T>(dkappa));
    Tile dlog_w;
#pragma unroll
    for (int i = 0; i < 8; ++i) dlog_w.x[i] = base[i / 2 % 2];
    add_terms(dlog_w, A, da, -1);
    add_terms(passed, A, da, -1);
    add_exact(dlog_w, passed, fragment<T>(tile_from([](int t, int i) { return i < t ? 1.0f : 0.0f; })));
    rows.store(out.dlog_w, fragment<T>(dlog_w));
  }

  // Processes the chunk that starts at `row`; the state before it is entry `chunk` of scratch. Values first
  // and keys last, so that not all accumulators are live at once. With several readers the keys process them
  // from the last to the first, because the last one is still in shared memory.
  __device__ void run(int chunk, const T* removed, const Readings<T>& readings, int32_t first, int32_t last,
                      const Gradients<T>& out) {
    own = opaque(own);
    states = &scratch.states[chunk][0][threadIdx.x];
    const int each = last - first, count = each * readings.count;
    const auto reading = [&](int i) {
      const Reading<T>&a = readings.first, &b = readings.second;
      return i < each ? Reading<T>{a.dy, a.r, a.dr} : Reading<T>{b.dy, b.r, b.dr};
    };
    const auto load = [&](int i) { load_reading(reading(i), readings.R, first + i % each); };
    const auto exchange = [&](int i) {
      __syncthreads();
      load(i);
      __syncthreads();
      reading_tiles();
      __syncthreads();
    };
    s.c.load(in, row, C, n, removed);
    if (count > 0) load(0);
    __syncthreads();
    through_decay();
    removal_tiles();
    if (count > 0) reading_tiles();
    __syncthreads();
    values_through_state();
    for (int i = 0; i < count; ++i) {
      if (i > 0) exchange(i);
      values_through_reading();
    }
    values_through_removal(out.dv);
    __syncthreads();
    own = opaque(own);
    dP_tiles();
    keys_through_state();
    for (int i = count - 1; i >= 0; --i) {
      if (i < count - 1) exchange(i);
      keys_through_reading(reading(i).dr, readings.R, first + i % each);
    }
    keys_through_removal(out);
    __syncthreads();
  }
};

template <class T, int W>
__global__ void __launch_bounds__(2 * W, sizeof(T) == 2 ? 2 : 1)
    backward_kernel(Inputs<T> in, const int64_t* pieces, int chains, const int32_t* readers,
                    Readings<T> readings, const float* chunk_states, const T* removed, const float* dfinal,
                    const float* after, Gradients<T> out, Scratch<T, W>* scratch) {
  auto& s = *wuneng::cuda::shared_memory<Shared<T, W>>();
  const int64_t square = int64_t{in.D} * in.D;
  for (int chain = blockIdx.x; chain < chains; chain += gridDim.x) {
    const int64_t* const piece = pieces + chain / in.N * 5;
    const int begin = static_cast<int>(piece[0]), count = static_cast<int>(piece[1]),
              n = static_cast<int>(chain % in.N), warp = static_cast<int>(threadIdx.x) / kWarp;
    const int64_t of_segment = (piece[3] * in.N + n) * square;
    const bool is_first = piece[4] & 1, is_last = piece[4] & 2;
    Backward<T, W> b{in, s, scratch[blockIdx.x], n, warp, warp * kTile};
    b.dS.load(!is_last ? after + chain * square : dfinal ? dfinal + of_segment : nullptr, in.D, b.own);
    for (int group = (count - 1) / kKept; group >= 0; --group) {
      const int first = begin + group * kKept, rows = min(kKept, count - group * kKept);
      b.compute_states(chunk_states + ((piece[2] + group) * in.N + n) * square, first, rows, removed);
      for (int chunk = (rows - 1) / kC; chunk >= 0; --chunk) {
        b.row = first + chunk * kC, b.C = min(kC, rows - chunk * kC);
        b.run(chunk, removed, readings, readers[2 * n], readers[2 * n + 1], out);
      }
    }
    if (is_first) b.dS.store(out.dinitial ? out.dinitial + of_segment : nullptr, in.D, b.own);
  }
}

}  // namespace

void wkv7_backward(const Stream& stream, const Wkv7BackwardArgs& args) {
  with_width(args.in, [&]<class T, int W>() {
    using wuneng::cuda::f32_or_null;
    const Inputs in = inputs_of<T>(args.in);
    const Device device = args.in.k.device();
    const int64_t most = most_blocks(device, W);
    const Pieces pieces = split_in_pieces(args.in.segments, in.N, most, device);
    const Tensor after = pieces.cut ? gradients_after(stream, args, pieces) : Tensor(),
                 readers = reader_table(args.head_state, in.N, device);
    const Gradients<T> out{args.dlog_w.data<T>(), args.dk.data<T>(),    args.dv.data<T>(),
                           args.dkappa.data<T>(), args.drate.data<T>(), f32_or_null(args.dinitial)};
    const int64_t chains = pieces.count * in.N, blocks = std::min(chains, most);
    const Tensor scratch = Tensor::empty(
        {blocks * static_cast<int64_t>(sizeof(Scratch<T, W>) / sizeof(float))}, DType::f32, device);
    wuneng::cuda::launch(stream, "wkv7_backward", backward_kernel<T, W>, dim3(blocks), dim3(2 * W),
                         sizeof(Shared<T, W>), in, pieces.pieces.data<int64_t>(), static_cast<int>(chains),
                         readers.data<int32_t>(), readings_of<T>(args), args.chunk_states.f32(),
                         args.removed.data<T>(), f32_or_null(args.dfinal), f32_or_null(after), out,
                         static_cast<Scratch<T, W>*>(scratch.raw()));
  });
}

}  // namespace wuneng::kernels::cuda

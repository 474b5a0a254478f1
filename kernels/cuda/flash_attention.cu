// Attention in tensor cores on bf16 (notation of kernels/attention.h). A block of four warps owns a tile of
// rows, 16 or 32 of them a warp, and goes through the tiles of 64 rows that they meet, of which the next one
// is copied to shared memory while one is worked on. Scores and sums stay in registers (flash_tile.h), in
// f32; the softmax is in base 2, with its scale in the same multiplication. Every output has one writer and
// one order of summation. Not yet run on a GPU: the tiles' sizes are what fits twice into an SM.
#include <numbers>

#include "kernels/cuda/attention_tables.h"
#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/flash_tile.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kForwardKeys = 64, kBackwardRows = 32;  // rows of the tiles that a block goes through
constexpr int kNever = 1 << 30;
constexpr float kLog2e = std::numbers::log2e_v<float>, kLn2 = std::numbers::ln2_v<float>;

// A warp's rows, in sixteens: two let it use twice what it reads from shared memory, but one is all that
// leaves the sums of both dk and dv in registers at D = 128.
constexpr int kQueryHeight = 2;
template <int D>
constexpr int kKeyHeight = D == 64 ? 2 : 1;
constexpr int rows_of_block(int height) { return 16 * height * kWarps; }
constexpr int kQueryRows = rows_of_block(kQueryHeight);

// A query row's, for the backward.
struct alignas(8) RowNumbers {
  float lse;    // of base 2
  float delta;  // out . dout
};

struct Problem {
  int H, G;
  int64_t Tq, Tk;
  float scale;
  const int32_t *segments, *query_tiles, *key_tiles, *first_of, *seeing, *kv_head, *first_head;
  const bf16 *q, *k, *v, *dout;  // dout and what follows: of the backward alone
  const RowNumbers* rows;        // [H, Tq]

  __device__ float scale_of_base_2() const { return scale * kLog2e; }
};

__device__ int warp_of_block() { return threadIdx.x / kWarp; }

// The tile of query rows that is the block's, and in it the warp's. Grid: query tiles x heads, heads fastest.
struct QueryTile {
  SeenRows s;
  int h, g;
  int first;  // the block's first row, in the segment
  int row;    // the warp's first row, in the block's tile
  int keys;   // that the block's last row sees

  __device__ explicit QueryTile(const Problem& p) {
    const int32_t* tile = p.query_tiles + 2 * (blockIdx.x / p.H);
    s = segment_at(p.segments, tile[0]), first = tile[1];
    h = static_cast<int>(blockIdx.x % p.H), g = p.kv_head[h];
    row = 16 * kQueryHeight * warp_of_block();
    keys = s.offset + min(first + kQueryRows, s.q_count);
  }
  __device__ int64_t begin() const { return s.q_begin + first; }  // in q
  __device__ int64_t end() const { return int64_t{s.q_begin} + s.q_count; }

  // The warp's row r sees column c of the tile of keys that begins with the segment's key `key` if c - r is
  // at most this.
  __device__ int seen(int key) const { return s.offset + first + row - key; }

  // f(seen, k's tile, v's tile) for each tile of keys that the warp's rows see. The block's own rows may be
  // on their way when this starts.
  template <int kKeys, int D, class F>
  __device__ void for_keys(const Problem& p, char* shared, F f) const {
    const auto tile_of = [&](int turn, int which) {
      return RowTile<D>{shared + (turn % 2 * 2 + which) * RowTile<D>::bytes(kKeys)};
    };
    const int64_t pitch = int64_t{p.G} * D;
    int64_t from = s.k_begin * pitch + g * D;
    int left = keys, most = first + row < s.q_count ? seen(0) : -kNever;
    const auto copy = [&](int turn) {
      copy_rows<kKeys, kThreads>(tile_of(turn, 0), p.k + from, pitch, left);
      copy_rows<kKeys, kThreads>(tile_of(turn, 1), p.v + from, pitch, left);
      from += kKeys * pitch, left -= kKeys;
    };
    copy(0);
    for (int turn = 0;; ++turn, most -= kKeys) {
      wait_for_copies();
      __syncthreads();  // the tile is there, and nobody needs the one before it
      const bool last = left <= 0;
      if (!last) copy(turn + 1);
      if (most + 16 * kQueryHeight > 0) f(most, tile_of(turn, 0), tile_of(turn, 1));
      if (last) break;
    }
  }
};

template <int kHeight, int kWidth>
__device__ void mask_keys(Sums<kHeight, kWidth>& scores, int seen) {
  if (seen < 8 * kWidth - 1)
    mask(scores, -INFINITY, [&](int row, int column) { return column - row <= seen; });
}

template <int D>
constexpr int kForwardBytes = RowTile<D>::bytes(kQueryRows + 4 * kForwardKeys);

template <int D>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(Problem p, bf16* out, float* lse) {
  constexpr int kHeight = kQueryHeight;
  char* const shared = shared_memory<char>();
  const QueryTile tile(p);
  const RowTile<D> q_tile{shared};
  copy_rows<kQueryRows, kThreads>(q_tile, p.q + (tile.begin() * p.H + tile.h) * D, int64_t{p.H} * D,
                                  tile.s.q_count - tile.first);
  const float scale = p.scale_of_base_2();
  Sums<kHeight, D / 8> sums;
  float best[kHeight][2], total[kHeight][2] = {};  // total: of this lane's columns alone
#pragma unroll
  for (int m = 0; m < kHeight; ++m) best[m][0] = best[m][1] = -INFINITY;
  tile.for_keys<kForwardKeys, D>(
      p, shared + RowTile<D>::bytes(kQueryRows), [&](int seen, auto k_tile, auto v_tile) {
        auto scores = scores_of<kHeight, kForwardKeys / 8>(q_tile, tile.row, k_tile);
        mask_keys(scores, seen);
#pragma unroll
        for (int m = 0; m < kHeight; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float top = best[m][half];
#pragma unroll
            for (int n = 0; n < kForwardKeys / 8; ++n)
              top = fmaxf(top, fmaxf(scores.of[m][n][2 * half], scores.of[m][n][2 * half + 1]));
            top = quad_max(top);  // finite: every row sees its document's first key, in the first tile
            const float keep = fast_exp2(scale * (best[m][half] - top)), bias = scale * top;
            best[m][half] = top;
            float added = 0;
#pragma unroll
            for (int n = 0; n < kForwardKeys / 8; ++n)
#pragma unroll
              for (int e = 2 * half; e < 2 * half + 2; ++e) {
                scores.of[m][n][e] = fast_exp2(scale * scores.of[m][n][e] - bias);
                added += scores.of[m][n][e];
              }
            total[m][half] = total[m][half] * keep + added;
#pragma unroll
            for (int n = 0; n < D / 8; ++n)
              sums.of[m][n][2 * half] *= keep, sums.of[m][n][2 * half + 1] *= keep;
          }
        add_weighted(sums, scores, v_tile);
      });
#pragma unroll
  for (int m = 0; m < kHeight; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = quad_sum(total[m][half]), share = 1 / all;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) sums.of[m][n][2 * half] *= share, sums.of[m][n][2 * half + 1] *= share;
      const int lane = threadIdx.x % kWarp;
      const int64_t row = tile.begin() + tile.row + 16 * m + 8 * half + lane / 4;
      if (lane % 4 == 0 && row < tile.end())
        lse[row * p.H + tile.h] = (scale * best[m][half] + log2f(all)) * kLn2;
    }
  store_rows<false>(sums, 1.0f, out + tile.h * D, int64_t{p.H} * D, tile.begin() + tile.row, tile.end());
}

// rows [H, Tq] of out, dout [Tq, H, D] and lse [Tq, H]. D / 8 threads a row.
template <int D>
__global__ void __launch_bounds__(kBlock)
    row_numbers_kernel(int64_t Tq, int H, const bf16* out, const bf16* dout, const float* lse,
                       RowNumbers* rows) {
  constexpr int kLanes = D / 8;
  struct alignas(16) Eight {
    unsigned pair[4];
  };
  const int64_t i = (int64_t{blockIdx.x} * kBlock + threadIdx.x) / kLanes;
  const int lane = threadIdx.x % kLanes;
  float delta = 0;
  if (i < Tq * H) {
    const Eight a = reinterpret_cast<const Eight*>(out + i * D)[lane],
                b = reinterpret_cast<const Eight*>(dout + i * D)[lane];
#pragma unroll
    for (int n = 0; n < 4; ++n)
      delta += low_of(a.pair[n]) * low_of(b.pair[n]) + high_of(a.pair[n]) * high_of(b.pair[n]);
  }
#pragma unroll
  for (int other = kLanes / 2; other > 0; other /= 2) delta += __shfl_xor_sync(~0u, delta, other);
  if (i < Tq * H && lane == 0) rows[i % H * Tq + i / H] = {lse[i] * kLog2e, delta};
}

template <int D>
constexpr int kQueryGradBytes = RowTile<D>::bytes(2 * kQueryRows + 4 * kBackwardRows);

// As forward_kernel, with ds = p (dp - delta) in place of p: dq = scale sum ds k.
template <int D>
__global__ void __launch_bounds__(kThreads, 2) query_grad_kernel(Problem p, bf16* dq) {
  constexpr int kHeight = kQueryHeight;
  char* const shared = shared_memory<char>();
  const QueryTile tile(p);
  const RowTile<D> q_tile{shared}, do_tile{shared + RowTile<D>::bytes(kQueryRows)};
  copy_rows<kQueryRows, kThreads>(q_tile, p.q + (tile.begin() * p.H + tile.h) * D, int64_t{p.H} * D,
                                  tile.s.q_count - tile.first);
  copy_rows<kQueryRows, kThreads>(do_tile, p.dout + (tile.begin() * p.H + tile.h) * D, int64_t{p.H} * D,
                                  tile.s.q_count - tile.first);
  RowNumbers mine[kHeight][2];
#pragma unroll
  for (int m = 0; m < kHeight; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = tile.begin() + tile.row + 16 * m + 8 * half + threadIdx.x % kWarp / 4;
      mine[m][half] = row < tile.end() ? p.rows[tile.h * p.Tq + row] : RowNumbers{0, 0};
    }
  const float scale = p.scale_of_base_2();
  Sums<kHeight, D / 8> sums;
  tile.for_keys<kBackwardRows, D>(
      p, shared + 2 * RowTile<D>::bytes(kQueryRows), [&](int seen, auto k_tile, auto v_tile) {
        auto scores = scores_of<kHeight, kBackwardRows / 8>(q_tile, tile.row, k_tile);
        const auto dp = scores_of<kHeight, kBackwardRows / 8>(do_tile, tile.row, v_tile);
        mask_keys(scores, seen);
        each_sum<kHeight, kBackwardRows / 8>([&](int m, int half, int n, int e, int, int) {
          float& x = scores.of[m][n][2 * half + e];
          x = fast_exp2(scale * x - mine[m][half].lse) * (dp.of[m][n][2 * half + e] - mine[m][half].delta);
        });
        add_weighted(sums, scores, k_tile);
      });
  store_rows<false>(sums, p.scale, dq + tile.h * D, int64_t{p.H} * D, tile.begin() + tile.row, tile.end());
}

// Goes through the tiles of query rows that see a tile of keys: by segment, then head, then row.
struct QueryWalk {
  SeenRows s;
  int32_t at;  // in Problem::seeing
  int h;
  int first;  // row in the segment

  // False where nobody sees the tile, which begins with row `key` of k.
  __device__ bool begin(const Problem& p, int key_tile, int g, int key) {
    at = p.first_of[key_tile], h = p.first_head[g];
    if (at == p.first_of[key_tile + 1] || h == p.first_head[g + 1]) return false;
    enter(p, key);
    return true;
  }
  __device__ bool next(const Problem& p, int key_tile, int g, int key) {
    first += kBackwardRows;
    if (first < s.q_count) return true;
    if (++h == p.first_head[g + 1]) {
      h = p.first_head[g];
      if (++at == p.first_of[key_tile + 1]) return false;
    }
    enter(p, key);
    return true;
  }

 private:
  __device__ void enter(const Problem& p, int key) {
    s = segment_at(p.segments, p.seeing[at]);
    first = max(0, key - s.k_begin - s.offset);  // the first query that sees any key of the tile
  }
};

template <int D>
constexpr int kKeyGradBytes = RowTile<D>::bytes(2 * rows_of_block(kKeyHeight<D>) + 4 * kBackwardRows) +
                              2 * kBackwardRows* static_cast<int>(sizeof(RowNumbers));

// Scores are transposed here, a row for each key: their sums are then the left factors of dv = sum p dout and
// dk = scale sum ds q. Grid: key tiles x key/value heads, heads fastest.
template <int D>
__global__ void __launch_bounds__(kThreads, 2) key_grad_kernel(Problem p, bf16* dk, bf16* dv) {
  constexpr int kHeight = kKeyHeight<D>, kRows = rows_of_block(kHeight);
  constexpr int kBytes = RowTile<D>::bytes(kBackwardRows);
  char* const shared = shared_memory<char>();
  const RowTile<D> k_tile{shared}, v_tile{shared + RowTile<D>::bytes(kRows)};
  char* const queries = shared + 2 * RowTile<D>::bytes(kRows);
  RowNumbers* const numbers = reinterpret_cast<RowNumbers*>(queries + 4 * kBytes);
  const int key_tile = p.key_tiles[blockIdx.x / p.G], g = static_cast<int>(blockIdx.x % p.G);
  const int key_begin = key_tile * kRows, row = 16 * kHeight * warp_of_block();
  QueryWalk walk;
  if (!walk.begin(p, key_tile, g, key_begin)) return;
  const int64_t from = (int64_t{key_begin} * p.G + g) * D;
  const int there = static_cast<int>(p.Tk) - key_begin;
  copy_rows<kRows, kThreads>(k_tile, p.k + from, int64_t{p.G} * D, there);
  copy_rows<kRows, kThreads>(v_tile, p.v + from, int64_t{p.G} * D, there);
  const auto tile_of = [&](int turn, int which) {
    return RowTile<D>{queries + (turn % 2 * 2 + which) * kBytes};
  };
  const auto copy = [&](int turn) {
    const int64_t first = walk.s.q_begin + walk.first, from = (first * p.H + walk.h) * D,
                  pitch = int64_t{p.H} * D;
    const int count = walk.s.q_count - walk.first;
    copy_rows<kBackwardRows, kThreads>(tile_of(turn, 0), p.q + from, pitch, count);
    copy_rows<kBackwardRows, kThreads>(tile_of(turn, 1), p.dout + from, pitch, count);
    const int i = threadIdx.x;
    if (i < kBackwardRows)
      copy_async<8>(numbers + turn % 2 * kBackwardRows + i,
                    p.rows + walk.h * p.Tq + first + min(i, count - 1), i < count);
  };
  const float scale = p.scale_of_base_2();
  Sums<kHeight, D / 8> dk_sums, dv_sums;
  copy(0);
  bool more = true;
  for (int turn = 0; more; ++turn) {
    wait_for_copies();
    __syncthreads();  // the tile is there, and nobody needs the one before it
    // The warp's key r is seen by query c of the tile if r - c is at most `seen`, r at least `low` (before it
    // another document ends), and c below `count`.
    const int low = walk.s.k_begin - key_begin - row, seen = walk.s.offset + walk.first + low,
              count = walk.s.q_count - walk.first;
    more = walk.next(p, key_tile, g, key_begin);
    if (more) copy(turn + 1);
    if (low < 16 * kHeight && -seen < min(count, kBackwardRows)) {
      const RowTile<D> q_tile = tile_of(turn, 0), do_tile = tile_of(turn, 1);
      const RowNumbers* const of = numbers + turn % 2 * kBackwardRows;
      const bool edge = low > 0 || seen < 16 * kHeight - 1 || count < kBackwardRows;
      const auto visible = [&](int r, int c) { return r - c <= seen && r >= low && c < count; };
      auto scores = scores_of<kHeight, kBackwardRows / 8>(k_tile, row, q_tile);
      if (edge) mask(scores, -INFINITY, visible);
      each_sum<kHeight, kBackwardRows / 8>([&](int m, int half, int n, int e, int, int column) {
        float& x = scores.of[m][n][2 * half + e];
        x = fast_exp2(scale * x - of[column].lse);
      });
      add_weighted(dv_sums, scores, do_tile);
      auto dp = scores_of<kHeight, kBackwardRows / 8>(v_tile, row, do_tile);
      if (edge) mask(dp, 0, visible);  // rows of v that nobody sees may hold anything
      each_sum<kHeight, kBackwardRows / 8>([&](int m, int half, int n, int e, int, int column) {
        scores.of[m][n][2 * half + e] *= dp.of[m][n][2 * half + e] - of[column].delta;
      });
      add_weighted(dk_sums, scores, q_tile);
    }
  }
  store_rows<true>(dk_sums, p.scale, dk + g * D, int64_t{p.G} * D, key_begin + row, p.Tk);
  store_rows<true>(dv_sums, 1.0f, dv + g * D, int64_t{p.G} * D, key_begin + row, p.Tk);
}

template <class Args>
Problem problem_of(const Args& args, const AttentionTables& t) {
  return {.H = static_cast<int>(args.q.dim(1)),
          .G = static_cast<int>(args.k.dim(1)),
          .Tq = args.q.dim(0),
          .Tk = args.k.dim(0),
          .scale = 1 / std::sqrt(static_cast<float>(args.q.dim(2))),
          .segments = t.segments.data<int32_t>(),
          .query_tiles = t.query_tiles.data<int32_t>(),
          .key_tiles = t.key_tiles.data<int32_t>(),
          .first_of = t.first_of.data<int32_t>(),
          .seeing = t.seeing.data<int32_t>(),
          .kv_head = t.kv_head.data<int32_t>(),
          .first_head = t.first_head.data<int32_t>(),
          .q = args.q.template data<bf16>(),
          .k = args.k.template data<bf16>(),
          .v = args.v.template data<bf16>()};
}

template <int D, class Args>
AttentionTables tables_of(const Args& args) {
  return AttentionTables(args.segments, args.kv_head, args.k.dim(0), args.k.dim(1), kQueryRows,
                         rows_of_block(kKeyHeight<D>), args.q.device());
}

template <int D>
void forward(const Stream& stream, const AttentionForwardArgs& args) {
  const AttentionTables t = tables_of<D>(args);
  const Problem p = problem_of(args, t);
  launch(stream, "attention forward", forward_kernel<D>, dim3(t.query_tile_count * p.H), dim3(kThreads),
         kForwardBytes<D>, p, args.out.data<bf16>(), args.lse.f32());
}

template <int D>
void backward(const Stream& stream, const AttentionBackwardArgs& args) {
  const AttentionTables t = tables_of<D>(args);
  Problem p = problem_of(args, t);
  const Tensor rows = Tensor::empty({p.H, p.Tq, 2}, DType::f32, args.q.device());
  RowNumbers* const numbers = static_cast<RowNumbers*>(rows.raw());
  p.dout = args.dout.data<bf16>(), p.rows = numbers;
  launch(stream, "attention's row numbers", row_numbers_kernel<D>,
         dim3(blocks_for(p.Tq * p.H * (D / 8), kBlock)), dim3(kBlock), 0, p.Tq, p.H, args.out.data<bf16>(),
         p.dout, args.lse.f32(), numbers);
  launch(stream, "attention backward of queries", query_grad_kernel<D>, dim3(t.query_tile_count * p.H),
         dim3(kThreads), kQueryGradBytes<D>, p, args.dq.data<bf16>());
  launch(stream, "attention backward of keys", key_grad_kernel<D>, dim3(t.key_tile_count * p.G),
         dim3(kThreads), kKeyGradBytes<D>, p, args.dk.data<bf16>(), args.dv.data<bf16>());
}

bool all_take(std::initializer_list<const Tensor*> tensors) {
  const int64_t D = (*tensors.begin())->dim(2);
  return (D == 64 || D == 128) && std::all_of(tensors.begin(), tensors.end(), [](const Tensor* t) {
           return t->dtype() == DType::bf16 && reinterpret_cast<uintptr_t>(t->raw()) % 16 == 0;
         });
}

}  // namespace

bool flash_attention_takes(const AttentionForwardArgs& args) {
  return all_take({&args.q, &args.k, &args.v, &args.out});
}
bool flash_attention_takes(const AttentionBackwardArgs& args) {
  return all_take({&args.q, &args.k, &args.v, &args.out, &args.dout, &args.dq, &args.dk, &args.dv});
}

void flash_attention_forward(const Stream& stream, const AttentionForwardArgs& args) {
  args.q.dim(2) == 64 ? forward<64>(stream, args) : forward<128>(stream, args);
}
void flash_attention_backward(const Stream& stream, const AttentionBackwardArgs& args) {
  args.q.dim(2) == 64 ? backward<64>(stream, args) : backward<128>(stream, args);
}

}  // namespace wuneng::kernels::cuda

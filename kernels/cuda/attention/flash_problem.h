// What the kernels of flash_attention.h have in common: what they are told, and how a block goes through the
// keys that its tile of query rows sees.
#pragma once
#include <numbers>

#include "kernels/cuda/attention/attention_tables.h"
#include "kernels/cuda/attention/flash_tile.h"

namespace wuneng::kernels::cuda::flash {

using namespace wuneng::cuda;

inline constexpr int kThreads = 128, kWarps = kThreads / kWarp;
inline constexpr int kNever = 1 << 30;
inline constexpr float kLog2e = std::numbers::log2e_v<float>, kLn2 = std::numbers::ln2_v<float>;

// A warp's rows, in sixteens: two let it use twice what it reads from shared memory, but one is all that
// leaves the sums of both dk and dv in registers at D = 128.
inline constexpr int kQueryHeight = 2;
template <int D>
constexpr int kKeyHeight = D == 64 ? 2 : 1;
constexpr int rows_of_block(int height) { return 16 * height * kWarps; }
inline constexpr int kQueryRows = rows_of_block(kQueryHeight);

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
  const RowNumbers* rows;        // [H, row_pitch]
  int64_t row_pitch;             // Tq, or one more: an even number

  __device__ float scale_of_base_2() const { return scale * kLog2e; }
};

__device__ inline int warp_of_block() { return threadIdx.x / kWarp; }

// Tile number `number` of query rows of a head: heads fastest.
struct QueryTile {
  SeenRows s;
  int h, g;
  int first;  // its first row, in the segment
  int keys;   // that its last row sees

  QueryTile() = default;
  __device__ QueryTile(const Problem& p, int number) {
    const int32_t* tile = p.query_tiles + 2 * (number / p.H);
    s = segment_at(p.segments, tile[0]), first = tile[1];
    h = number % p.H, g = p.kv_head[h];
    keys = s.offset + min(first + kQueryRows, s.q_count);
  }
  __device__ int64_t begin() const { return s.q_begin + first; }  // in q
  __device__ int64_t end() const { return int64_t{s.q_begin} + s.q_count; }

  // The tile's row r sees column c of the tile of keys that begins with the segment's key `key` if c - r is
  // at most this.
  __device__ int seen(int key) const { return s.offset + first - key; }
};

// The block's, and in it the warp's rows. Grid: query tiles x heads.
struct WarpTile : QueryTile {
  int row;  // the warp's first row

  __device__ explicit WarpTile(const Problem& p)
      : QueryTile(p, static_cast<int>(blockIdx.x)), row(16 * kQueryHeight * warp_of_block()) {}

  // f(seen by the warp's row 0, k's tile, v's tile) for each tile of keys that the warp's rows see. The
  // block's own rows may be on their way when this starts.
  template <int kKeys, int D, class F>
  __device__ void for_keys(const Problem& p, char* shared, F f) const {
    const auto tile_of = [&](int turn, int which) {
      return RowTile<D>{shared + (turn % 2 * 2 + which) * RowTile<D>::bytes(kKeys)};
    };
    const int64_t pitch = int64_t{p.G} * D;
    int64_t from = s.k_begin * pitch + g * D;
    int left = keys, most = first + row < s.q_count ? seen(0) + row : -kNever;
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

// Goes through the tiles of kRows query rows that see a tile of keys: by segment, then head, then row.
template <int kRows>
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
    first += kRows;
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

template <int kHeight, int kWidth>
__device__ void mask_keys(Sums<kHeight, kWidth>& scores, int seen) {
  if (seen < 8 * kWidth - 1)
    mask(scores, -INFINITY, [&](int row, int column) { return column - row <= seen; });
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
          .v = args.v.template data<bf16>(),
          .dout = nullptr,
          .rows = nullptr,
          .row_pitch = (args.q.dim(0) + 1) / 2 * 2};
}

template <class Args>
AttentionTables tables_of(const Args& args, int key_rows) {
  return AttentionTables(args.segments, args.kv_head, args.k.dim(0), args.k.dim(1), kQueryRows, key_rows,
                         args.q.device());
}

// RowNumbers of all query rows, as f32 [H, row_pitch, 2].
Tensor row_numbers(const Stream& stream, const AttentionBackwardArgs& args, int64_t row_pitch);

}  // namespace wuneng::kernels::cuda::flash

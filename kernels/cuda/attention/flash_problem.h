// Shared by the kernels of flash_attention.h: their arguments, and the loop of a block over the keys that its
// tile of query rows attends to.
#pragma once
#include <numbers>

#include "kernels/cuda/attention/attention_tables.h"
#include "kernels/cuda/attention/flash_tile.h"

namespace wuneng::kernels::cuda::flash {

using namespace wuneng::cuda;

inline constexpr int kThreads = 128, kWarps = kThreads / kWarp;
inline constexpr int kNever = 1 << 30;
inline constexpr float kLog2e = std::numbers::log2e_v<float>, kLn2 = std::numbers::ln2_v<float>;

// Rows of a warp in units of 16. Two halve the reads from shared memory per product; at D = 128 the
// accumulators of dk and dv together leave registers for one only.
inline constexpr int kQueryHeight = 2;
template <int D>
constexpr int kKeyHeight = D == 64 ? 2 : 1;
constexpr int rows_of_block(int height) { return 16 * height * kWarps; }
inline constexpr int kQueryRows = rows_of_block(kQueryHeight);

// Per query row, for the backward.
struct alignas(8) RowStats {
  float lse;    // log2-sum-exp2 of the scaled scores
  float delta;  // out . dout
};

struct Problem {
  int H, G;
  int64_t Tq, Tk;
  float scale;
  const int32_t *segments, *query_tiles, *key_tiles, *segment_offsets, *segment_indices, *kv_head,
      *first_head;
  const bf16 *q, *k, *v, *dout;  // dout and the members below: backward only
  const RowStats* rows;          // [H, row_pitch]
  int64_t row_pitch;             // Tq rounded up to an even number

  __device__ float scale_of_base_2() const { return scale * kLog2e; }
};

__device__ inline int warp_of_block() { return threadIdx.x / kWarp; }

// Work item `number`: a tile of query rows and a head, heads fastest.
struct QueryTile {
  DeviceSegment s;
  int h, g;
  int first;  // the tile's first row, relative to the segment
  int keys;   // number of keys that its last row attends to

  QueryTile() = default;
  __device__ QueryTile(const Problem& p, int number) {
    const int32_t* tile = p.query_tiles + 2 * (number / p.H);
    s = segment_at(p.segments, tile[0]), first = tile[1];
    h = number % p.H, g = p.kv_head[h];
    keys = s.offset + min(first + kQueryRows, s.q_count);
  }
  __device__ int64_t begin() const { return s.q_begin + first; }  // in q
  __device__ int64_t end() const { return int64_t{s.q_begin} + s.q_count; }

  // Row r of this tile attends to column c of the key tile that begins at key `key` of the segment if c - r
  // <= seen(key).
  __device__ int seen(int key) const { return s.offset + first - key; }
};

// The block's query tile and the warp's rows in it. Grid: query tiles x heads.
struct WarpTile : QueryTile {
  int row;  // the warp's first row

  __device__ explicit WarpTile(const Problem& p)
      : QueryTile(p, static_cast<int>(blockIdx.x)), row(16 * kQueryHeight * warp_of_block()) {}

  // f(seen of the warp's row 0, tile of k, tile of v) for each key tile that the warp's rows attend to,
  // double buffered. Asynchronous copies of the block's own rows may be pending when this is called.
  template <int kKeys, int D, class F>
  __device__ void for_keys(const Problem& p, char* shared, F f) const {
    const auto tile_of = [&](int iteration, int which) {
      return RowTile<D>{shared + (iteration % 2 * 2 + which) * RowTile<D>::bytes(kKeys)};
    };
    const int64_t pitch = int64_t{p.G} * D;
    int64_t from = s.k_begin * pitch + g * D;
    int left = keys, most = first + row < s.q_count ? seen(0) + row : -kNever;
    const auto copy = [&](int iteration) {
      copy_rows<kKeys, kThreads>(tile_of(iteration, 0), p.k + from, pitch, left);
      copy_rows<kKeys, kThreads>(tile_of(iteration, 1), p.v + from, pitch, left);
      from += kKeys * pitch, left -= kKeys;
    };
    copy(0);
    for (int iteration = 0;; ++iteration, most -= kKeys) {
      wait_for_copies();
      __syncthreads();  // the tile is complete, and no thread reads the one before it any more
      const bool last = left <= 0;
      if (!last) copy(iteration + 1);
      if (most + 16 * kQueryHeight > 0) f(most, tile_of(iteration, 0), tile_of(iteration, 1));
      if (last) break;
    }
  }
};

// Iterates over the tiles of kRows query rows that attend to a tile of keys: by segment, then head, then row.
template <int kRows>
struct QueryTileIterator {
  DeviceSegment s;
  int32_t at;  // in Problem::segment_indices
  int h;
  int first;  // row in the segment

  // Returns false if no row attends to the tile, which begins at row `key` of k.
  __device__ bool begin(const Problem& p, int key_tile, int g, int key) {
    at = p.segment_offsets[key_tile], h = p.first_head[g];
    if (at == p.segment_offsets[key_tile + 1] || h == p.first_head[g + 1]) return false;
    enter(p, key);
    return true;
  }
  __device__ bool next(const Problem& p, int key_tile, int g, int key) {
    first += kRows;
    if (first < s.q_count) return true;
    if (++h == p.first_head[g + 1]) {
      h = p.first_head[g];
      if (++at == p.segment_offsets[key_tile + 1]) return false;
    }
    enter(p, key);
    return true;
  }

 private:
  __device__ void enter(const Problem& p, int key) {
    s = segment_at(p.segments, p.segment_indices[at]);
    first = max(0, key - s.k_begin - s.offset);  // the first query that attends to a key of the tile
  }
};

template <int kHeight, int kWidth>
__device__ void mask_keys(Accumulators<kHeight, kWidth>& scores, int seen) {
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
          .segment_offsets = t.segment_offsets.data<int32_t>(),
          .segment_indices = t.segment_indices.data<int32_t>(),
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

// RowStats of all query rows, as f32 [H, row_pitch, 2].
Tensor row_stats(const Stream& stream, const AttentionBackwardArgs& args, int64_t row_pitch);

}  // namespace wuneng::kernels::cuda::flash

// The backward of flash_attention.cu, in two kernels: a block of query_grad_kernel owns a tile of query rows
// and loops over the keys that they attend to, as the forward does; a block of key_grad_kernel owns a tile of
// keys and loops over all queries that attend to them. Both recompute the probabilities from lse, which costs
// two of the seven products and avoids sums across blocks.
#include "kernels/cuda/attention/flash_attention.h"
#include "kernels/cuda/attention/flash_problem.h"
#include "kernels/cuda/attention/hopper_attention.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace flash;

constexpr int kInnerRows = 32;  // rows of the tiles in a block's loop

template <int D>
constexpr int kQueryGradBytes = RowTile<D>::bytes(2 * kQueryRows + 4 * kInnerRows);

// As forward_kernel, with ds = p (dp - delta) in place of p: dq = scale sum ds k.
template <int D>
__global__ void __launch_bounds__(kThreads, 2) query_grad_kernel(Problem p, bf16* dq) {
  constexpr int kHeight = kQueryHeight;
  char* const shared = shared_memory<char>();
  const WarpTile tile(p);
  const RowTile<D> q_tile{shared}, do_tile{shared + RowTile<D>::bytes(kQueryRows)};
  copy_rows<kQueryRows, kThreads>(q_tile, p.q + (tile.begin() * p.H + tile.h) * D, int64_t{p.H} * D,
                                  tile.s.q_count - tile.first);
  copy_rows<kQueryRows, kThreads>(do_tile, p.dout + (tile.begin() * p.H + tile.h) * D, int64_t{p.H} * D,
                                  tile.s.q_count - tile.first);
  RowStats mine[kHeight][2];
#pragma unroll
  for (int m = 0; m < kHeight; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = tile.begin() + tile.row + 16 * m + 8 * half + threadIdx.x % kWarp / 4;
      mine[m][half] = row < tile.end() ? p.rows[tile.h * p.row_pitch + row] : RowStats{0, 0};
    }
  const float scale = p.scale_of_base_2();
  Accumulators<kHeight, D / 8> sums;
  tile.for_keys<kInnerRows, D>(
      p, shared + 2 * RowTile<D>::bytes(kQueryRows), [&](int seen, auto k_tile, auto v_tile) {
        auto scores = scores_of<kHeight, kInnerRows / 8>(q_tile, tile.row, k_tile);
        const auto dp = scores_of<kHeight, kInnerRows / 8>(do_tile, tile.row, v_tile);
        mask_keys(scores, seen);
        for_each_accumulator<kHeight, kInnerRows / 8>([&](int m, int half, int n, int e, int, int) {
          float& x = scores.of[m][n][2 * half + e];
          x = fast_exp2(scale * x - mine[m][half].lse) * (dp.of[m][n][2 * half + e] - mine[m][half].delta);
        });
        add_weighted(sums, scores, k_tile);
      });
  store_rows<false>(sums, p.scale, dq + tile.h * D, int64_t{p.H} * D, tile.begin() + tile.row, tile.end());
}

template <int D>
constexpr int kKeyGradBytes = RowTile<D>::bytes(2 * rows_of_block(kKeyHeight<D>) + 4 * kInnerRows) +
                              2 * kInnerRows* static_cast<int>(sizeof(RowStats));

// Scores are transposed here, one row per key: their accumulators are then operand A of dv = sum p dout and
// dk = scale sum ds q. Grid: key tiles x key/value heads, heads fastest.
template <int D>
__global__ void __launch_bounds__(kThreads, 2) key_grad_kernel(Problem p, bf16* dk, bf16* dv) {
  constexpr int kHeight = kKeyHeight<D>, kRows = rows_of_block(kHeight);
  constexpr int kBytes = RowTile<D>::bytes(kInnerRows);
  char* const shared = shared_memory<char>();
  const RowTile<D> k_tile{shared}, v_tile{shared + RowTile<D>::bytes(kRows)};
  char* const queries = shared + 2 * RowTile<D>::bytes(kRows);
  RowStats* const stats = reinterpret_cast<RowStats*>(queries + 4 * kBytes);
  const int key_tile = p.key_tiles[blockIdx.x / p.G], g = static_cast<int>(blockIdx.x % p.G);
  const int key_begin = key_tile * kRows, row = 16 * kHeight * warp_of_block();
  QueryTileIterator<kInnerRows> query;
  if (!query.begin(p, key_tile, g, key_begin)) return;
  const int64_t from = (int64_t{key_begin} * p.G + g) * D;
  const int there = static_cast<int>(p.Tk) - key_begin;
  copy_rows<kRows, kThreads>(k_tile, p.k + from, int64_t{p.G} * D, there);
  copy_rows<kRows, kThreads>(v_tile, p.v + from, int64_t{p.G} * D, there);
  const auto tile_of = [&](int iteration, int which) {
    return RowTile<D>{queries + (iteration % 2 * 2 + which) * kBytes};
  };
  const auto copy = [&](int iteration) {
    const int64_t first = query.s.q_begin + query.first, from = (first * p.H + query.h) * D,
                  pitch = int64_t{p.H} * D;
    const int count = query.s.q_count - query.first;
    copy_rows<kInnerRows, kThreads>(tile_of(iteration, 0), p.q + from, pitch, count);
    copy_rows<kInnerRows, kThreads>(tile_of(iteration, 1), p.dout + from, pitch, count);
    const int i = threadIdx.x;
    if (i < kInnerRows)
      copy_async<8>(stats + iteration % 2 * kInnerRows + i,
                    p.rows + query.h * p.row_pitch + first + min(i, count - 1), i < count);
  };
  const float scale = p.scale_of_base_2();
  Accumulators<kHeight, D / 8> dk_sums, dv_sums;
  copy(0);
  bool more = true;
  for (int iteration = 0; more; ++iteration) {
    wait_for_copies();
    __syncthreads();  // the tile is complete, and no thread reads the one before it any more
    // Query c of the tile attends to the warp's key r if r - c <= seen, r >= low (keys below it belong to the
    // previous document), and c < count.
    const int low = query.s.k_begin - key_begin - row, seen = query.s.offset + query.first + low,
              count = query.s.q_count - query.first;
    more = query.next(p, key_tile, g, key_begin);
    if (more) copy(iteration + 1);
    if (low < 16 * kHeight && -seen < min(count, kInnerRows)) {
      const RowTile<D> q_tile = tile_of(iteration, 0), do_tile = tile_of(iteration, 1);
      const RowStats* const of = stats + iteration % 2 * kInnerRows;
      const bool partial = low > 0 || seen < 16 * kHeight - 1 || count < kInnerRows;
      const auto visible = [&](int r, int c) { return r - c <= seen && r >= low && c < count; };
      auto scores = scores_of<kHeight, kInnerRows / 8>(k_tile, row, q_tile);
      if (partial) mask(scores, -INFINITY, visible);
      for_each_accumulator<kHeight, kInnerRows / 8>([&](int m, int half, int n, int e, int, int column) {
        float& x = scores.of[m][n][2 * half + e];
        x = fast_exp2(scale * x - of[column].lse);
      });
      add_weighted(dv_sums, scores, do_tile);
      auto dp = scores_of<kHeight, kInnerRows / 8>(v_tile, row, do_tile);
      if (partial) mask(dp, 0, visible);  // rows of v outside all segments may hold anything
      for_each_accumulator<kHeight, kInnerRows / 8>([&](int m, int half, int n, int e, int, int column) {
        scores.of[m][n][2 * half + e] *= dp.of[m][n][2 * half + e] - of[column].delta;
      });
      add_weighted(dk_sums, scores, q_tile);
    }
  }
  store_rows<true>(dk_sums, p.scale, dk + g * D, int64_t{p.G} * D, key_begin + row, p.Tk);
  store_rows<true>(dv_sums, 1.0f, dv + g * D, int64_t{p.G} * D, key_begin + row, p.Tk);
}

template <int D>
void backward(const Stream& stream, const AttentionBackwardArgs& args) {
  const AttentionTables t = tables_of(args, rows_of_block(kKeyHeight<D>));
  Problem p = problem_of(args, t);
  const Tensor rows = row_stats(stream, args, p.row_pitch);
  p.dout = args.dout.data<bf16>(), p.rows = static_cast<const RowStats*>(rows.raw());
  launch(stream, "attention backward of queries", query_grad_kernel<D>, dim3(t.query_tile_count * p.H),
         dim3(kThreads), kQueryGradBytes<D>, p, args.dq.data<bf16>());
  launch(stream, "attention backward of keys", key_grad_kernel<D>, dim3(t.key_tile_count * p.G),
         dim3(kThreads), kKeyGradBytes<D>, p, args.dk.data<bf16>(), args.dv.data<bf16>());
}

}  // namespace

void flash_attention_backward(const Stream& stream, const AttentionBackwardArgs& args) {
  if (takes_hopper_attention(args.q.device())) return hopper_attention_backward(stream, args);
  args.q.dim(2) == 64 ? backward<64>(stream, args) : backward<128>(stream, args);
}

}  // namespace wuneng::kernels::cuda

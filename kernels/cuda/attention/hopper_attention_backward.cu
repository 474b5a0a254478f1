// The backward of hopper_attention.cu, in two kernels like flash_attention_backward.cu: a block of
// query_grad_kernel owns query rows and loops over the keys that they attend to; a block of key_grad_kernel
// owns keys and loops over all queries that attend to them. In both, the accumulators of scores and their
// gradients become operand A of the next product in registers, and the exponentials of one warpgroup overlap
// the products of the other.
#include "kernels/cuda/attention/hopper_attention.h"
#include "kernels/cuda/attention/hopper_tiles.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kInnerRows = 64;  // rows of the tiles in a block's loop
constexpr int kStages = 4;      // of these tiles in shared memory
using Scores = Accumulators<1, kInnerRows / 8>;

// The work item of key_grad_kernel: a tile of keys, with an iterator over the queries that attend to it.
struct KeyTile {
  int number, g;
  QueryTileIterator<kInnerRows> queries;

  __device__ int begin() const { return number * kBlockRows; }
};

// Shared memory: two tiles of the block's own rows, kStages stages of two inner tiles and their RowStats, and
// barriers.
template <int D, class Tile>
struct Shared {
  using Own = SwizzledTile<kBlockRows, D>;
  using Inner = SwizzledTile<kInnerRows, D>;
  using Scheduler = TileScheduler<Tile>;
  static constexpr int kStatsBytes = kInnerRows * sizeof(RowStats);
  static constexpr int kRowsAt = 2 * Own::kBytes, kStatsAt = kRowsAt + 2 * kStages * Inner::kBytes;
  static constexpr int kBarriersAt = kStatsAt + kStages * kStatsBytes;
  static constexpr int kBytes = kBarriersAt + Scheduler::kBytes + 8 * TilePipeline<kStages>::kBarriers;

  char* base;
  __device__ Own own(int which) const { return {base + which * Own::kBytes}; }
  __device__ Inner inner(int iteration, int which) const {
    return {base + kRowsAt + (iteration % kStages * 2 + which) * Inner::kBytes};
  }
  __device__ RowStats* stats(int iteration) const {
    return reinterpret_cast<RowStats*>(base + kStatsAt + iteration % kStages * kStatsBytes);
  }
  __device__ Scheduler scheduler() const { return {{reinterpret_cast<uint64_t*>(base + kBarriersAt)}}; }
  __device__ TilePipeline<kStages> pipeline() const {
    return {scheduler().rows.barriers + Scheduler::kBytes / 8};
  }
  __device__ void init() const { scheduler().init(), pipeline().init(kReaders); }

  // The block's own rows of two tensors.
  __device__ void copy_own(int work, const CUtensorMap& first, const CUtensorMap& second, int row,
                           int head) const {
    uint64_t* const barrier = scheduler().rows.arrive_expect(work, 2 * Own::kBytes);
    tma_load(own(0).data, first, barrier, {0, row, 0, head});
    tma_load(own(1).data, second, barrier, {0, row, 0, head});
  }
};

// scores [64, kInnerRows] = the warpgroup's rows of own(which) times inner(iteration, which)^T
template <int D, class Tile>
__device__ void issue(Scores& scores, Shared<D, Tile> shared, int iteration, int which) {
  issue_scores(scores, shared.own(which), 64 * group_of_block(), shared.inner(iteration, which));
  wgmma_commit();
}

// f(element, half, row, column) for each of a lane's scores; row and column relative to the warp.
template <class F>
__device__ void each_score(F f) {
  for_each_accumulator<1, kInnerRows / 8>(
      [&](int, int half, int n, int e, int row, int column) { f(4 * n + 2 * half + e, half, row, column); });
}
__device__ inline float& at(Scores& scores, int element) { return scores.of[0][element / 4][element % 4]; }

// As forward_kernel, with ds = p (dp - delta) in place of p: dq = scale sum ds k.
template <int D>
__global__ void __launch_bounds__(kBlockThreads, 1)
    query_grad_kernel(TileQueue queue, Problem p, const __grid_constant__ CUtensorMap q,
                      const __grid_constant__ CUtensorMap dout, const __grid_constant__ CUtensorMap k,
                      const __grid_constant__ CUtensorMap v, bf16* dq) {
  if constexpr (kHopperCode) {
    using Memory = Shared<D, QueryTile>;
    const Memory shared{shared_memory<char>()};
    const auto copy = [&] {
      int iteration = 0;
      shared.scheduler().produce(queue, query_tiles_of(p), [&](int work, const QueryTile& tile) {
        shared.copy_own(work, q, dout, static_cast<int>(tile.begin()), tile.h);
        for (int key = 0; key < tile.keys; key += kInnerRows, ++iteration) {
          uint64_t* const barrier = shared.pipeline().producer_acquire(iteration, 2 * Memory::Inner::kBytes);
          const int from[4] = {0, tile.s.k_begin + key, 0, tile.g};
          tma_load(shared.inner(iteration, 0).data, k, barrier, from);
          tma_load(shared.inner(iteration, 1).data, v, barrier, from);
        }
      });
    };
    const auto compute = [&] {
      const int row = row_of_warp();
      const float scale = p.scale_of_base_2();
      int iteration = 0;
      shared.scheduler().consume([&](int work, const QueryTile& tile) {
        RowStats mine[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t at = tile.begin() + row + 8 * half + threadIdx.x % kWarp / 4;
          mine[half] = at < tile.end() ? p.rows[tile.h * p.row_pitch + at] : RowStats{0, 0};
        }
        Accumulators<1, D / 8> sums;
        Scores scores, ds;
        Weights<kInnerRows / 16> weights;
        for (int key = 0; key < tile.keys; key += kInnerRows, ++iteration) {
          shared.pipeline().consumer_wait(iteration);
          // Rows after the last key that any row attends to may belong to another document and not be finite;
          // weight 0 times such a value is NaN.
          if (tile.keys - key < kInnerRows)
            shared.inner(iteration, 0).clear_from(tile.keys - key, kOwnBarrier + group_of_block());
          wgmma_fence(scores, ds);
          issue(scores, shared, iteration, 0);
          issue(ds, shared, iteration, 1);
          wgmma_wait<1>(scores, sums);
          if (key > 0) shared.pipeline().consumer_release(iteration - 1);
          const int seen = tile.seen(key) + row;
          const auto hide = [&](Scores& x) {
            if (seen < kInnerRows - 1)
              each_score([&](int i, int, int r, int c) { at(x, i) = c - r > seen ? 0 : at(x, i); });
          };
          each_score([&](int i, int half, int, int) {
            at(scores, i) = fast_exp2(scale * at(scores, i) - mine[half].lse);
          });
          hide(scores);  // before the wait: the compiler does not move exponentials past a branch
          wgmma_wait<0>(ds);
          each_score(
              [&](int i, int half, int, int) { at(ds, i) = at(scores, i) * (at(ds, i) - mine[half].delta); });
          hide(ds);
          weights.take(ds);
          wgmma_fence(sums, weights);
          issue_weighted(sums, weights, shared.inner(iteration, 0));
          wgmma_commit();
        }
        wgmma_wait<0>(sums);
        shared.pipeline().consumer_release(iteration - 1);
        shared.scheduler().rows.consumer_release(work);
        store_rows<false>(sums, p.scale, dq + tile.h * D, int64_t{p.H} * D, tile.begin() + row, tile.end());
      });
    };
    run_block([&] { shared.init(); }, copy, compute);
  }
}

// Scores are transposed here, one row per key: their accumulators are then operand A of dv = sum p dout and
// dk = scale sum ds q. Tiles: of keys x key/value heads, heads fastest.
template <int D>
__global__ void __launch_bounds__(kBlockThreads, 1)
    key_grad_kernel(TileQueue queue, Problem p, const __grid_constant__ CUtensorMap k,
                    const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap q,
                    const __grid_constant__ CUtensorMap dout, const __grid_constant__ CUtensorMap stats,
                    bf16* dk, bf16* dv) {
  if constexpr (kHopperCode) {
    using Memory = Shared<D, KeyTile>;
    const Memory shared{shared_memory<char>()};
    const auto copy = [&] {
      int iteration = 0;
      const auto find = [&](int number, KeyTile& tile) {
        tile.number = p.key_tiles[number / p.G], tile.g = number % p.G;
        return tile.queries.begin(p, tile.number, tile.g, tile.begin());
      };
      shared.scheduler().produce(queue, find, [&](int work, KeyTile tile) {
        QueryTileIterator<kInnerRows>& queries = tile.queries;
        shared.copy_own(work, k, v, tile.begin(), tile.g);
        do {
          uint64_t* const barrier =
              shared.pipeline().producer_acquire(iteration, 2 * Memory::Inner::kBytes + Memory::kStatsBytes);
          const int from[4] = {0, queries.s.q_begin + queries.first, 0, queries.h};
          tma_load(shared.inner(iteration, 0).data, q, barrier, from);
          tma_load(shared.inner(iteration, 1).data, dout, barrier, from);
          tma_load(shared.stats(iteration), stats, barrier, {2 * from[1], queries.h, 0, 0});
          ++iteration;
        } while (queries.next(p, tile.number, tile.g, tile.begin()));
      });
    };
    const auto compute = [&] {
      const int row = row_of_warp(), group_row = 64 * group_of_block();
      const float scale = p.scale_of_base_2();
      int iteration = 0;
      shared.scheduler().consume([&](int work, KeyTile tile) {
        const int key_begin = tile.begin(), g = tile.g;
        QueryTileIterator<kInnerRows>& queries = tile.queries;
        Accumulators<1, D / 8> dk_sums, dv_sums;
        Scores scores, ds;
        Weights<kInnerRows / 16> weights, ds_weights;
        int unread = -1;  // the iteration whose tiles pending products read until the next wait
        const auto release_unread = [&] {
          if (unread >= 0) shared.pipeline().consumer_release(unread);
          unread = -1;
        };
        do {
          shared.pipeline().consumer_wait(iteration);
          // Query c of the tile attends to the block's key r if r - c <= seen, r >= low (keys below it belong
          // to the previous document), and c < count.
          const int low = queries.s.k_begin - key_begin, seen = queries.s.offset + queries.first + low,
                    count = queries.s.q_count - queries.first;
          if (low < group_row + 64 && group_row - seen < min(count, kInnerRows)) {
            // Rows after the segment's last query may not be finite; weight 0 times such a value is NaN.
            if (count < kInnerRows) {
              shared.inner(iteration, 0).clear_from(count, kOwnBarrier + group_of_block());
              shared.inner(iteration, 1).clear_from(count, kOwnBarrier + group_of_block());
            }
            const RowStats* const of = shared.stats(iteration);
            wgmma_fence(scores);
            issue(scores, shared, iteration, 0);
            wgmma_wait<1>(dk_sums, dv_sums);  // of the last iteration: ds overwrites their operands
            release_unread();
            wgmma_fence(ds);
            issue(ds, shared, iteration, 1);
            wgmma_wait<1>(scores);
            const auto hide = [&](Scores& x) {
              if (low > row || seen < row + 15 || count < kInnerRows)
                each_score([&](int i, int, int r, int c) {
                  if (row + r - c > seen || row + r < low || c >= count) at(x, i) = 0;
                });
            };
            each_score([&](int i, int, int, int c) {
              at(scores, i) = fast_exp2(scale * at(scores, i) - of[c].lse);
            });
            hide(scores);
            wgmma_wait<0>(ds);
            each_score(
                [&](int i, int, int, int c) { at(ds, i) = at(scores, i) * (at(ds, i) - of[c].delta); });
            hide(ds);
            weights.take(scores), ds_weights.take(ds);
            wgmma_fence(dk_sums, dv_sums, weights, ds_weights);
            issue_weighted(dv_sums, weights, shared.inner(iteration, 1));
            issue_weighted(dk_sums, ds_weights, shared.inner(iteration, 0));
            wgmma_commit();
            unread = iteration;
          } else {
            wgmma_wait<0>(dk_sums, dv_sums);
            release_unread();
            shared.pipeline().consumer_release(iteration);
          }
          ++iteration;
        } while (queries.next(p, tile.number, g, key_begin));
        wgmma_wait<0>(dk_sums, dv_sums);
        release_unread();
        shared.scheduler().rows.consumer_release(work);
        store_rows<true>(dk_sums, p.scale, dk + g * D, int64_t{p.G} * D, key_begin + row, p.Tk);
        store_rows<true>(dv_sums, 1.0f, dv + g * D, int64_t{p.G} * D, key_begin + row, p.Tk);
      });
    };
    run_block([&] { shared.init(); }, copy, compute);
  }
}

template <int D>
void backward(const Stream& stream, const AttentionBackwardArgs& args) {
  const AttentionTables t = tables_of(args, kBlockRows);
  if (t.query_tile_count == 0) return;
  Problem p = problem_of(args, t);
  const Tensor rows = row_stats(stream, args, p.row_pitch);
  p.rows = static_cast<const RowStats*>(rows.raw());
  launch_tiles(stream, "attention backward of queries", query_grad_kernel<D>, t.query_tile_count * p.H,
               Shared<D, QueryTile>::kBytes, p, map_of_rows(args.q, kBlockRows),
               map_of_rows(args.dout, kBlockRows), map_of_rows(args.k, kInnerRows),
               map_of_rows(args.v, kInnerRows), args.dq.data<bf16>());
  launch_tiles(stream, "attention backward of keys", key_grad_kernel<D>, t.key_tile_count * p.G,
               Shared<D, KeyTile>::kBytes, p, map_of_rows(args.k, kBlockRows),
               map_of_rows(args.v, kBlockRows), map_of_rows(args.q, kInnerRows),
               map_of_rows(args.dout, kInnerRows), map_of_numbers(rows, 2 * kInnerRows), args.dk.data<bf16>(),
               args.dv.data<bf16>());
}

}  // namespace

void hopper_attention_backward(const Stream& stream, const AttentionBackwardArgs& args) {
  args.q.dim(2) == 64 ? backward<64>(stream, args) : backward<128>(stream, args);
}

}  // namespace wuneng::kernels::cuda

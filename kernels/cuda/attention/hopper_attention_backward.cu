// The backward of hopper_attention.cu, in two kernels as flash_attention_backward.cu's: a block of
// query_grad_kernel owns query rows and goes through the keys that they see, and a block of key_grad_kernel
// owns keys and goes through all queries that see them. In both, scores and their gradients leave tensor
// cores and become left factors without leaving registers; while one warpgroup takes exponentials the other
// multiplies.
#include "kernels/cuda/attention/hopper_attention.h"
#include "kernels/cuda/attention/hopper_tiles.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kAcross = 64;  // rows of the tiles that a block goes through
constexpr int kStages = 4;   // of them in shared memory
using Scores = Sums<1, kAcross / 8>;

// A tile of keys as key_grad_kernel is told of it, with the first of the queries that see it.
struct KeyTile {
  int number, g;
  QueryWalk<kAcross> walk;

  __device__ int begin() const { return number * kBlockRows; }
};

// Two tiles of the block's own rows, stages of two tiles and of kAcross rows' numbers, and barriers.
template <int D, class Tile>
struct Shared {
  using Own = SwizzledTile<kBlockRows, D>;
  using Across = SwizzledTile<kAcross, D>;
  using Tiled = TileRing<Tile>;
  static constexpr int kNumberBytes = kAcross * sizeof(RowNumbers);
  static constexpr int kRowsAt = 2 * Own::kBytes, kNumbersAt = kRowsAt + 2 * kStages * Across::kBytes;
  static constexpr int kBarriersAt = kNumbersAt + kStages * kNumberBytes;
  static constexpr int kBytes = kBarriersAt + Tiled::kBytes + 8 * Ring<kStages>::kBarriers;

  char* base;
  __device__ Own own(int which) const { return {base + which * Own::kBytes}; }
  __device__ Across across(int turn, int which) const {
    return {base + kRowsAt + (turn % kStages * 2 + which) * Across::kBytes};
  }
  __device__ RowNumbers* numbers(int turn) const {
    return reinterpret_cast<RowNumbers*>(base + kNumbersAt + turn % kStages * kNumberBytes);
  }
  __device__ Tiled tiles() const { return {{reinterpret_cast<uint64_t*>(base + kBarriersAt)}}; }
  __device__ Ring<kStages> ring() const { return {tiles().rows.barriers + Tiled::kBytes / 8}; }
  __device__ void init() const { tiles().init(), ring().init(kReaders); }

  // The block's own rows of two tensors.
  __device__ void copy_own(int round, const CUtensorMap& first, const CUtensorMap& second, int row,
                           int head) const {
    uint64_t* const barrier = tiles().rows.announce(round, 2 * Own::kBytes);
    copy_box(own(0).data, first, barrier, {0, row, 0, head});
    copy_box(own(1).data, second, barrier, {0, row, 0, head});
  }
};

// scores [64, kAcross] = the warpgroup's own rows x the tile's
template <int D, class Tile>
__device__ void issue(Scores& scores, Shared<D, Tile> shared, int turn, int which) {
  issue_scores(scores, shared.own(which), 64 * group_of_block(), shared.across(turn, which));
  wgmma_commit();
}

// f(element, half, row, column) for each of a lane's scores, in the warp's coordinates.
template <class F>
__device__ void each_score(F f) {
  each_sum<1, kAcross / 8>(
      [&](int, int half, int n, int e, int row, int column) { f(4 * n + 2 * half + e, half, row, column); });
}
__device__ inline float& at(Scores& scores, int element) { return scores.of[0][element / 4][element % 4]; }

// As forward_kernel, with ds = p (dp - delta) in place of p: dq = scale sum ds k.
template <int D>
__global__ void __launch_bounds__(kBlockThreads, 1)
    query_grad_kernel(Tiles tiles, Problem p, const __grid_constant__ CUtensorMap q,
                      const __grid_constant__ CUtensorMap dout, const __grid_constant__ CUtensorMap k,
                      const __grid_constant__ CUtensorMap v, bf16* dq) {
  if constexpr (kHopperCode) {
    using Memory = Shared<D, QueryTile>;
    const Memory shared{shared_memory<char>()};
    const auto copy = [&] {
      int turn = 0;
      shared.tiles().deal(tiles, query_tiles_of(p), [&](int round, const QueryTile& tile) {
        shared.copy_own(round, q, dout, static_cast<int>(tile.begin()), tile.h);
        for (int key = 0; key < tile.keys; key += kAcross, ++turn) {
          uint64_t* const barrier = shared.ring().begin_copy(turn, 2 * Memory::Across::kBytes);
          const int from[4] = {0, tile.s.k_begin + key, 0, tile.g};
          copy_box(shared.across(turn, 0).data, k, barrier, from);
          copy_box(shared.across(turn, 1).data, v, barrier, from);
        }
      });
    };
    const auto compute = [&] {
      const int row = row_of_warp();
      const float scale = p.scale_of_base_2();
      int turn = 0;
      shared.tiles().take([&](int round, const QueryTile& tile) {
        RowNumbers mine[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t at = tile.begin() + row + 8 * half + threadIdx.x % kWarp / 4;
          mine[half] = at < tile.end() ? p.rows[tile.h * p.row_pitch + at] : RowNumbers{0, 0};
        }
        Sums<1, D / 8> sums;
        Scores scores, slopes;
        Weights<kAcross / 16> weights;
        for (int key = 0; key < tile.keys; key += kAcross, ++turn) {
          shared.ring().wait(turn);
          // What follows the last key that any row sees may be another document's and not finite, which a
          // weight of 0 does not silence.
          if (tile.keys - key < kAcross)
            shared.across(turn, 0).clear_from(tile.keys - key, kOwnBarrier + group_of_block());
          wgmma_fence(scores, slopes);
          issue(scores, shared, turn, 0);
          issue(slopes, shared, turn, 1);
          wgmma_wait<1>(scores, sums);
          if (key > 0) shared.ring().release(turn - 1);
          const int seen = tile.seen(key) + row;
          const auto hide = [&](Scores& x) {
            if (seen < kAcross - 1)
              each_score([&](int i, int, int r, int c) { at(x, i) = c - r > seen ? 0 : at(x, i); });
          };
          each_score([&](int i, int half, int, int) {
            at(scores, i) = fast_exp2(scale * at(scores, i) - mine[half].lse);
          });
          hide(scores);  // before the wait: past a branch the compiler does not put off exponentials
          wgmma_wait<0>(slopes);
          each_score([&](int i, int half, int, int) {
            at(slopes, i) = at(scores, i) * (at(slopes, i) - mine[half].delta);
          });
          hide(slopes);
          weights.take(slopes);
          wgmma_fence(sums, weights);
          issue_weighted(sums, weights, shared.across(turn, 0));
          wgmma_commit();
        }
        wgmma_wait<0>(sums);
        shared.ring().release(turn - 1);
        shared.tiles().rows.release(round);
        store_rows<false>(sums, p.scale, dq + tile.h * D, int64_t{p.H} * D, tile.begin() + row, tile.end());
      });
    };
    run_block([&] { shared.init(); }, copy, compute);
  }
}

// Scores are transposed here, a row for each key: their sums are then the left factors of dv = sum p dout and
// dk = scale sum ds q. Tiles: of keys x key/value heads, heads fastest.
template <int D>
__global__ void __launch_bounds__(kBlockThreads, 1)
    key_grad_kernel(Tiles tiles, Problem p, const __grid_constant__ CUtensorMap k,
                    const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap q,
                    const __grid_constant__ CUtensorMap dout, const __grid_constant__ CUtensorMap numbers,
                    bf16* dk, bf16* dv) {
  if constexpr (kHopperCode) {
    using Memory = Shared<D, KeyTile>;
    const Memory shared{shared_memory<char>()};
    const auto copy = [&] {
      int turn = 0;
      const auto find = [&](int number, KeyTile& tile) {
        tile.number = p.key_tiles[number / p.G], tile.g = number % p.G;
        return tile.walk.begin(p, tile.number, tile.g, tile.begin());
      };
      shared.tiles().deal(tiles, find, [&](int round, KeyTile tile) {
        QueryWalk<kAcross>& walk = tile.walk;
        shared.copy_own(round, k, v, tile.begin(), tile.g);
        do {
          uint64_t* const barrier =
              shared.ring().begin_copy(turn, 2 * Memory::Across::kBytes + Memory::kNumberBytes);
          const int from[4] = {0, walk.s.q_begin + walk.first, 0, walk.h};
          copy_box(shared.across(turn, 0).data, q, barrier, from);
          copy_box(shared.across(turn, 1).data, dout, barrier, from);
          copy_box(shared.numbers(turn), numbers, barrier, {2 * from[1], walk.h, 0, 0});
          ++turn;
        } while (walk.next(p, tile.number, tile.g, tile.begin()));
      });
    };
    const auto compute = [&] {
      const int row = row_of_warp(), group_row = 64 * group_of_block();
      const float scale = p.scale_of_base_2();
      int turn = 0;
      shared.tiles().take([&](int round, KeyTile tile) {
        const int key_begin = tile.begin(), g = tile.g;
        QueryWalk<kAcross>& walk = tile.walk;
        Sums<1, D / 8> dk_sums, dv_sums;
        Scores scores, slopes;
        Weights<kAcross / 16> weights, slope_weights;
        int unread = -1;  // the turn whose tiles products read until the next wait
        const auto release_unread = [&] {
          if (unread >= 0) shared.ring().release(unread);
          unread = -1;
        };
        do {
          shared.ring().wait(turn);
          // The block's key r is seen by query c of the tile if r - c is at most `seen`, r at least `low`
          // (before it another document ends), and c below `count`.
          const int low = walk.s.k_begin - key_begin, seen = walk.s.offset + walk.first + low,
                    count = walk.s.q_count - walk.first;
          if (low < group_row + 64 && group_row - seen < min(count, kAcross)) {
            // What follows the segment's last query may be not finite, which a weight of 0 does not silence.
            if (count < kAcross) {
              shared.across(turn, 0).clear_from(count, kOwnBarrier + group_of_block());
              shared.across(turn, 1).clear_from(count, kOwnBarrier + group_of_block());
            }
            const RowNumbers* const of = shared.numbers(turn);
            wgmma_fence(scores);
            issue(scores, shared, turn, 0);
            wgmma_wait<1>(dk_sums, dv_sums);  // the last turn's: slopes come where their left factors were
            release_unread();
            wgmma_fence(slopes);
            issue(slopes, shared, turn, 1);
            wgmma_wait<1>(scores);
            const auto hide = [&](Scores& x) {
              if (low > row || seen < row + 15 || count < kAcross)
                each_score([&](int i, int, int r, int c) {
                  if (row + r - c > seen || row + r < low || c >= count) at(x, i) = 0;
                });
            };
            each_score([&](int i, int, int, int c) {
              at(scores, i) = fast_exp2(scale * at(scores, i) - of[c].lse);
            });
            hide(scores);
            wgmma_wait<0>(slopes);
            each_score([&](int i, int, int, int c) {
              at(slopes, i) = at(scores, i) * (at(slopes, i) - of[c].delta);
            });
            hide(slopes);
            weights.take(scores), slope_weights.take(slopes);
            wgmma_fence(dk_sums, dv_sums, weights, slope_weights);
            issue_weighted(dv_sums, weights, shared.across(turn, 1));
            issue_weighted(dk_sums, slope_weights, shared.across(turn, 0));
            wgmma_commit();
            unread = turn;
          } else {
            wgmma_wait<0>(dk_sums, dv_sums);
            release_unread();
            shared.ring().release(turn);
          }
          ++turn;
        } while (walk.next(p, tile.number, g, key_begin));
        wgmma_wait<0>(dk_sums, dv_sums);
        release_unread();
        shared.tiles().rows.release(round);
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
  const Tensor rows = row_numbers(stream, args, p.row_pitch);
  p.rows = static_cast<const RowNumbers*>(rows.raw());
  launch_tiles(stream, "attention backward of queries", query_grad_kernel<D>, t.query_tile_count * p.H,
               Shared<D, QueryTile>::kBytes, p, map_of_rows(args.q, kBlockRows),
               map_of_rows(args.dout, kBlockRows), map_of_rows(args.k, kAcross), map_of_rows(args.v, kAcross),
               args.dq.data<bf16>());
  launch_tiles(stream, "attention backward of keys", key_grad_kernel<D>, t.key_tile_count * p.G,
               Shared<D, KeyTile>::kBytes, p, map_of_rows(args.k, kBlockRows),
               map_of_rows(args.v, kBlockRows), map_of_rows(args.q, kAcross), map_of_rows(args.dout, kAcross),
               map_of_numbers(rows, 2 * kAcross), args.dk.data<bf16>(), args.dv.data<bf16>());
}

}  // namespace

void hopper_attention_backward(const Stream& stream, const AttentionBackwardArgs& args) {
  args.q.dim(2) == 64 ? backward<64>(stream, args) : backward<128>(stream, args);
}

}  // namespace wuneng::kernels::cuda

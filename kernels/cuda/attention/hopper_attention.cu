// Attention's forward in Hopper's tensor cores (notation of kernels/attention.h). While the tensor cores
// multiply for one warpgroup the other takes exponentials, and so does the same one: a tile's scores are
// asked for together with the product of the tile before. Scores, weights and sums stay in registers. Not yet
// run on a GPU.
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/attention/hopper_attention.h"
#include "kernels/cuda/attention/hopper_tiles.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kKeys = 128;  // of a tile

template <int D>
struct Shared {
  static constexpr int kStages = 256 / D;
  using Queries = SwizzledTile<kBlockRows, D>;
  using Keys = SwizzledTile<kKeys, D>;
  using Tiled = TileRing<QueryTile>;
  static constexpr int kBytes =
      Queries::kBytes + 2 * kStages * Keys::kBytes + Tiled::kBytes + 16 * Ring<kStages>::kBarriers;

  char* base;
  __device__ uint64_t* barriers() const {
    return reinterpret_cast<uint64_t*>(base + Queries::kBytes + 2 * kStages * Keys::kBytes);
  }
  __device__ Queries q() const { return {base}; }
  __device__ Keys k(int turn) const { return {base + Queries::kBytes + turn % kStages * Keys::kBytes}; }
  __device__ Keys v(int turn) const { return {k(turn).data + kStages * Keys::kBytes}; }
  __device__ Tiled tiles() const { return {{barriers()}}; }
  __device__ Ring<kStages> keys() const { return {barriers() + Tiled::kBytes / 8}; }
  __device__ Ring<kStages> values() const { return {keys().barriers + Ring<kStages>::kBarriers}; }
  __device__ void init() const { tiles().init(), keys().init(kReaders), values().init(kReaders); }
};

// The thread that copies.
template <int D>
__device__ void copy_tiles(const Problem& p, const Tiles& tiles, const CUtensorMap& q, const CUtensorMap& k,
                           const CUtensorMap& v, Shared<D> shared) {
  using Keys = typename Shared<D>::Keys;
  int turn = 0;
  shared.tiles().deal(tiles, query_tiles_of(p), [&](int round, const QueryTile& tile) {
    uint64_t* const of_q = shared.tiles().rows.announce(round, Shared<D>::Queries::kBytes);
    copy_box(shared.q().data, q, of_q, {0, static_cast<int>(tile.begin()), 0, tile.h});
    for (int key = 0; key < tile.keys; key += kKeys, ++turn) {
      const int from[4] = {0, tile.s.k_begin + key, 0, tile.g};
      copy_box(shared.k(turn).data, k, shared.keys().begin_copy(turn, Keys::kBytes), from);
      copy_box(shared.v(turn).data, v, shared.values().begin_copy(turn, Keys::kBytes), from);
    }
  });
}

// Of a lane's two rows, as keys come in: the best score and the sum of exponentials above it, in base 2.
template <int kWidth>
struct Softmax {
  float best[2] = {-INFINITY, -INFINITY}, total[2] = {};  // total: of this lane's columns alone

  // Scores become weights; keep: what those before them are to be multiplied with.
  __device__ void take(Sums<1, kWidth>& scores, float scale, float (&keep)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = best[half];
#pragma unroll
      for (int n = 0; n < kWidth; ++n)
        top = fmaxf(top, fmaxf(scores.of[0][n][2 * half], scores.of[0][n][2 * half + 1]));
      top = quad_max(top);  // finite: every row sees its document's first key, in the first tile
      keep[half] = fast_exp2(scale * (best[half] - top));
      const float bias = scale * top;
      best[half] = top;
      float added = 0;
#pragma unroll
      for (int n = 0; n < kWidth; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          scores.of[0][n][e] = fast_exp2(scale * scores.of[0][n][e] - bias);
          added += scores.of[0][n][e];
        }
      total[half] = total[half] * keep[half] + added;
    }
  }
};

template <int kWidth>
__device__ void multiply_rows(Sums<1, kWidth>& sums, const float (&by)[2]) {
#pragma unroll
  for (int n = 0; n < kWidth; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums.of[0][n][e] *= by[e / 2];
}

// A warpgroup that computes.
template <int D>
__device__ void compute_tiles(const Problem& p, bf16* out, float* lse, Shared<D> shared) {
  const int group = group_of_block(), other = kGroups - 1 - group, row = row_of_warp();
  const float scale = p.scale_of_base_2();
  const auto keys = shared.keys(), values = shared.values();
  // The groups issue products by turns, so that each finds the tensor cores free when it has exponentials to
  // take.
  const auto wait_for_turn = [&] { named_sync(kTurnBarrier + group, kGroups * kWarpgroup); };
  const auto pass_turn = [&] { named_arrive(kTurnBarrier + other, kGroups * kWarpgroup); };
  if (group == kGroups - 1) pass_turn();
  int turn = 0;
  shared.tiles().take([&](int round, const QueryTile& tile) {
    const int count = (tile.keys + kKeys - 1) / kKeys;
    const int open = max(0, tile.seen(0) + 1) / kKeys;  // tiles of which every row sees all
    Softmax<kKeys / 8> softmax;
    Sums<1, kKeys / 8> scores;
    Sums<1, D / 8> sums;
    float keep[2];
    const auto mask = [&](int n) { mask_keys(scores, tile.seen(n * kKeys) + row); };

    keys.wait(turn);
    wait_for_turn();
    wgmma_fence(scores);
    issue_scores(scores, shared.q(), 64 * group, shared.k(turn));
    wgmma_commit();
    pass_turn();
    wgmma_wait<0>(scores);
    keys.release(turn);
    if (open == 0) mask(0);
    softmax.take(scores, scale, keep);
    Weights<kKeys / 16> weights;
    weights.take(scores);

    const auto next = [&](int n, auto masked) {
      keys.wait(turn + 1);
      wait_for_turn();
      wgmma_fence(scores, sums, weights);
      issue_scores(scores, shared.q(), 64 * group, shared.k(turn + 1));
      wgmma_commit();
      issue_weighted(sums, weights, shared.v(turn));
      wgmma_commit();
      pass_turn();
      wgmma_wait<1>(scores);
      keys.release(turn + 1);
      if constexpr (masked) mask(n);
      softmax.take(scores, scale, keep);
      values.wait(turn + 1);  // here, so that the compiler puts off no exponentials until after the next wait
      wgmma_wait<0>(sums);
      values.release(turn);
      multiply_rows(sums, keep);
      weights.take(scores);
      ++turn;
    };
    values.wait(turn);
    int n = 1;
    for (; n < min(open, count); ++n) next(n, std::false_type{});
    for (; n < count; ++n) next(n, std::true_type{});
    shared.tiles().rows.release(round);

    // What follows the last key that any row sees may be another document's, or nothing: a weight of 0 does
    // not silence it where it is not finite.
    if (tile.keys % kKeys != 0) shared.v(turn).clear_from(tile.keys % kKeys, kOwnBarrier + group);
    wgmma_fence(sums, weights);
    issue_weighted(sums, weights, shared.v(turn));
    wgmma_commit();
    wgmma_wait<0>(sums);
    values.release(turn);
    ++turn;

    float share[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = quad_sum(softmax.total[half]);
      share[half] = 1 / all;
      const int lane = threadIdx.x % kWarp;
      const int64_t at = tile.begin() + row + 8 * half + lane / 4;
      if (lane % 4 == 0 && at < tile.end())
        lse[at * p.H + tile.h] = (scale * softmax.best[half] + log2f(all)) * kLn2;
    }
    multiply_rows(sums, share);
    store_rows<false>(sums, 1.0f, out + tile.h * D, int64_t{p.H} * D, tile.begin() + row, tile.end());
  });
}

template <int D>
__global__ void __launch_bounds__(kBlockThreads, 1)
    forward_kernel(Tiles tiles, Problem p, const __grid_constant__ CUtensorMap q,
                   const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v, bf16* out,
                   float* lse) {
  if constexpr (kHopperCode) {
    const Shared<D> shared{shared_memory<char>()};
    run_block([&] { shared.init(); }, [&] { copy_tiles<D>(p, tiles, q, k, v, shared); },
              [&] { compute_tiles<D>(p, out, lse, shared); });
  }
}

template <int D>
void forward(const Stream& stream, const AttentionForwardArgs& args) {
  const AttentionTables t = tables_of(args, kKeys);
  if (t.query_tile_count == 0) return;
  const Problem p = problem_of(args, t);
  launch_tiles(stream, "attention forward", forward_kernel<D>, t.query_tile_count * p.H, Shared<D>::kBytes, p,
               map_of_rows(args.q, kBlockRows), map_of_rows(args.k, kKeys), map_of_rows(args.v, kKeys),
               args.out.data<bf16>(), args.lse.f32());
}

}  // namespace

bool takes_hopper_attention(Device device) {
#ifdef WUNENG_HOPPER
  const char* const wanted = std::getenv("WUNENG_ATTENTION");
  return !(wanted && std::strcmp(wanted, "mma_sync") == 0) &&
         wuneng::cuda::compute_capability(device.index) == 90;
#else
  return (void)device, false;
#endif
}

void hopper_attention_forward(const Stream& stream, const AttentionForwardArgs& args) {
  args.q.dim(2) == 64 ? forward<64>(stream, args) : forward<128>(stream, args);
}

}  // namespace wuneng::kernels::cuda

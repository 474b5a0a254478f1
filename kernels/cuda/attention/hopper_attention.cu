// Attention forward by wgmma (notation of kernels/attention.h; FlashAttention-3, Shah et al. 2024). The
// products of one warpgroup overlap the exponentials of the other, and within a warpgroup the scores of a key
// tile are issued together with the weighted sum of the tile before. Scores, weights and accumulators stay in
// registers. Not yet run on a GPU. Limits and counts: docs/gpu.md.
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/attention/hopper_attention.h"
#include "kernels/cuda/attention/hopper_tiles.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kKeys = 128;  // rows of a key tile

template <int D>
struct Shared {
  static constexpr int kStages = 256 / D;
  using Queries = SwizzledTile<kBlockRows, D>;
  using Keys = SwizzledTile<kKeys, D>;
  using Scheduler = TileScheduler<QueryTile>;
  static constexpr int kBytes = Queries::kBytes + 2 * kStages * Keys::kBytes + Scheduler::kBytes +
                                16 * TilePipeline<kStages>::kBarriers;

  char* base;
  __device__ uint64_t* barriers() const {
    return reinterpret_cast<uint64_t*>(base + Queries::kBytes + 2 * kStages * Keys::kBytes);
  }
  __device__ Queries q() const { return {base}; }
  __device__ Keys k(int iteration) const {
    return {base + Queries::kBytes + iteration % kStages * Keys::kBytes};
  }
  __device__ Keys v(int iteration) const { return {k(iteration).data + kStages * Keys::kBytes}; }
  __device__ Scheduler scheduler() const { return {{barriers()}}; }
  __device__ TilePipeline<kStages> keys() const { return {barriers() + Scheduler::kBytes / 8}; }
  __device__ TilePipeline<kStages> values() const {
    return {keys().barriers + TilePipeline<kStages>::kBarriers};
  }
  __device__ void init() const { scheduler().init(), keys().init(kReaders), values().init(kReaders); }
};

// The producer.
template <int D>
__device__ void copy_tiles(const Problem& p, const TileQueue& queue, const CUtensorMap& q,
                           const CUtensorMap& k, const CUtensorMap& v, Shared<D> shared) {
  using Keys = typename Shared<D>::Keys;
  int iteration = 0;
  shared.scheduler().produce(queue, query_tiles_of(p), [&](int work, const QueryTile& tile) {
    uint64_t* const of_q = shared.scheduler().rows.arrive_expect(work, Shared<D>::Queries::kBytes);
    tma_load(shared.q().data, q, of_q, {0, static_cast<int>(tile.begin()), 0, tile.h});
    for (int key = 0; key < tile.keys; key += kKeys, ++iteration) {
      const int from[4] = {0, tile.s.k_begin + key, 0, tile.g};
      tma_load(shared.k(iteration).data, k, shared.keys().producer_acquire(iteration, Keys::kBytes), from);
      tma_load(shared.v(iteration).data, v, shared.values().producer_acquire(iteration, Keys::kBytes), from);
    }
  });
}

// Online softmax of a lane's two rows: the maximum score so far and the sum of exponentials relative to it,
// in base 2.
template <int kWidth>
struct Softmax {
  float row_max[2] = {-INFINITY, -INFINITY}, row_sum[2] = {};  // row_sum: of this lane's columns alone

  // Replaces scores by weights. rescale (out): the factor for everything accumulated before.
  __device__ void update(Accumulators<1, kWidth>& scores, float scale, float (&rescale)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = row_max[half];
#pragma unroll
      for (int n = 0; n < kWidth; ++n)
        top = fmaxf(top, fmaxf(scores.of[0][n][2 * half], scores.of[0][n][2 * half + 1]));
      top = quad_max(top);  // finite: every row attends to its document's first key, in the first tile
      rescale[half] = fast_exp2(scale * (row_max[half] - top));
      const float bias = scale * top;
      row_max[half] = top;
      float added = 0;
#pragma unroll
      for (int n = 0; n < kWidth; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          scores.of[0][n][e] = fast_exp2(scale * scores.of[0][n][e] - bias);
          added += scores.of[0][n][e];
        }
      row_sum[half] = row_sum[half] * rescale[half] + added;
    }
  }
};

template <int kWidth>
__device__ void scale_rows(Accumulators<1, kWidth>& sums, const float (&by)[2]) {
#pragma unroll
  for (int n = 0; n < kWidth; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums.of[0][n][e] *= by[e / 2];
}

// A consumer warpgroup.
template <int D>
__device__ void compute_tiles(const Problem& p, bf16* out, float* lse, Shared<D> shared) {
  const int group = group_of_block(), other = kGroups - 1 - group, row = row_of_warp();
  const float scale = p.scale_of_base_2();
  const auto keys = shared.keys(), values = shared.values();
  // The two groups issue their products alternately, so that the exponentials of one overlap the products of
  // the other.
  const auto order_wait = [&] { named_sync(kOrderBarrier + group, kGroups * kWarpgroup); };
  const auto order_arrive = [&] { named_arrive(kOrderBarrier + other, kGroups * kWarpgroup); };
  if (group == kGroups - 1) order_arrive();
  int iteration = 0;
  shared.scheduler().consume([&](int work, const QueryTile& tile) {
    const int count = (tile.keys + kKeys - 1) / kKeys;
    const int open = max(0, tile.seen(0) + 1) / kKeys;  // tiles without masking
    Softmax<kKeys / 8> softmax;
    Accumulators<1, kKeys / 8> scores;
    Accumulators<1, D / 8> sums;
    float rescale[2];
    const auto mask = [&](int n) { mask_keys(scores, tile.seen(n * kKeys) + row); };

    keys.consumer_wait(iteration);
    order_wait();
    wgmma_fence(scores);
    issue_scores(scores, shared.q(), 64 * group, shared.k(iteration));
    wgmma_commit();
    order_arrive();
    wgmma_wait<0>(scores);
    keys.consumer_release(iteration);
    if (open == 0) mask(0);
    softmax.update(scores, scale, rescale);
    Weights<kKeys / 16> weights;
    weights.take(scores);

    const auto next = [&](int n, auto masked) {
      keys.consumer_wait(iteration + 1);
      order_wait();
      wgmma_fence(scores, sums, weights);
      issue_scores(scores, shared.q(), 64 * group, shared.k(iteration + 1));
      wgmma_commit();
      issue_weighted(sums, weights, shared.v(iteration));
      wgmma_commit();
      order_arrive();
      wgmma_wait<1>(scores);
      keys.consumer_release(iteration + 1);
      if constexpr (masked) mask(n);
      softmax.update(scores, scale, rescale);
      values.consumer_wait(iteration +
                           1);  // here, so that the compiler does not move exponentials past the next wait
      wgmma_wait<0>(sums);
      values.consumer_release(iteration);
      scale_rows(sums, rescale);
      weights.take(scores);
      ++iteration;
    };
    values.consumer_wait(iteration);
    int n = 1;
    for (; n < min(open, count); ++n) next(n, std::false_type{});
    for (; n < count; ++n) next(n, std::true_type{});
    shared.scheduler().rows.consumer_release(work);

    // Rows after the last key that any row attends to belong to another document or are undefined. Weight 0
    // times a value that is not finite is NaN, so they are set to zero.
    if (tile.keys % kKeys != 0) shared.v(iteration).clear_from(tile.keys % kKeys, kOwnBarrier + group);
    wgmma_fence(sums, weights);
    issue_weighted(sums, weights, shared.v(iteration));
    wgmma_commit();
    wgmma_wait<0>(sums);
    values.consumer_release(iteration);
    ++iteration;

    float share[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = quad_sum(softmax.row_sum[half]);
      share[half] = 1 / all;
      const int lane = threadIdx.x % kWarp;
      const int64_t at = tile.begin() + row + 8 * half + lane / 4;
      if (lane % 4 == 0 && at < tile.end())
        lse[at * p.H + tile.h] = (scale * softmax.row_max[half] + log2f(all)) * kLn2;
    }
    scale_rows(sums, share);
    store_rows<false>(sums, 1.0f, out + tile.h * D, int64_t{p.H} * D, tile.begin() + row, tile.end());
  });
}

template <int D>
__global__ void __launch_bounds__(kBlockThreads, 1)
    forward_kernel(TileQueue queue, Problem p, const __grid_constant__ CUtensorMap q,
                   const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v, bf16* out,
                   float* lse) {
  if constexpr (kHopperCode) {
    const Shared<D> shared{shared_memory<char>()};
    run_block([&] { shared.init(); }, [&] { copy_tiles<D>(p, queue, q, k, v, shared); },
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

// Attention forward on bf16 by mma.sync (notation of kernels/attention.h; FlashAttention-2, Dao 2023). A
// block of four warps owns a tile of query rows, 16 or 32 per warp, and loops over key tiles, double buffered
// in shared memory. Scores and accumulators stay in registers in f32 (flash_tile.h); the softmax is in base
// 2, its scale folded into the same multiplication. Every output has one writer and a fixed order of
// summation. Not yet run on a GPU: the tile sizes are the largest of which two blocks fit an SM. Limits and
// counts: docs/gpu.md.
#include "kernels/cuda/attention/flash_attention.h"
#include "kernels/cuda/attention/flash_problem.h"
#include "kernels/cuda/attention/hopper_attention.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace flash;

constexpr int kKeys = 64;  // rows of a key tile

template <int D>
constexpr int kForwardBytes = RowTile<D>::bytes(kQueryRows + 4 * kKeys);

template <int D>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(Problem p, bf16* out, float* lse) {
  constexpr int kHeight = kQueryHeight;
  char* const shared = shared_memory<char>();
  const WarpTile tile(p);
  const RowTile<D> q_tile{shared};
  copy_rows<kQueryRows, kThreads>(q_tile, p.q + (tile.begin() * p.H + tile.h) * D, int64_t{p.H} * D,
                                  tile.s.q_count - tile.first);
  const float scale = p.scale_of_base_2();
  Accumulators<kHeight, D / 8> sums;
  float row_max[kHeight][2], row_sum[kHeight][2] = {};  // row_sum: of this lane's columns alone
#pragma unroll
  for (int m = 0; m < kHeight; ++m) row_max[m][0] = row_max[m][1] = -INFINITY;
  tile.for_keys<kKeys, D>(p, shared + RowTile<D>::bytes(kQueryRows), [&](int seen, auto k_tile, auto v_tile) {
    auto scores = scores_of<kHeight, kKeys / 8>(q_tile, tile.row, k_tile);
    mask_keys(scores, seen);
#pragma unroll
    for (int m = 0; m < kHeight; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = row_max[m][half];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
          top = fmaxf(top, fmaxf(scores.of[m][n][2 * half], scores.of[m][n][2 * half + 1]));
        top = quad_max(top);  // finite: every row attends to its document's first key, in the first tile
        const float rescale = fast_exp2(scale * (row_max[m][half] - top)), bias = scale * top;
        row_max[m][half] = top;
        float added = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            scores.of[m][n][e] = fast_exp2(scale * scores.of[m][n][e] - bias);
            added += scores.of[m][n][e];
          }
        row_sum[m][half] = row_sum[m][half] * rescale + added;
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
          sums.of[m][n][2 * half] *= rescale, sums.of[m][n][2 * half + 1] *= rescale;
      }
    add_weighted(sums, scores, v_tile);
  });
#pragma unroll
  for (int m = 0; m < kHeight; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = quad_sum(row_sum[m][half]), share = 1 / all;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) sums.of[m][n][2 * half] *= share, sums.of[m][n][2 * half + 1] *= share;
      const int lane = threadIdx.x % kWarp;
      const int64_t row = tile.begin() + tile.row + 16 * m + 8 * half + lane / 4;
      if (lane % 4 == 0 && row < tile.end())
        lse[row * p.H + tile.h] = (scale * row_max[m][half] + log2f(all)) * kLn2;
    }
  store_rows<false>(sums, 1.0f, out + tile.h * D, int64_t{p.H} * D, tile.begin() + tile.row, tile.end());
}

template <int D>
void forward(const Stream& stream, const AttentionForwardArgs& args) {
  const AttentionTables t = tables_of(args, rows_of_block(kKeyHeight<D>));
  const Problem p = problem_of(args, t);
  launch(stream, "attention forward", forward_kernel<D>, dim3(t.query_tile_count * p.H), dim3(kThreads),
         kForwardBytes<D>, p, args.out.data<bf16>(), args.lse.f32());
}

bool takes(int64_t window, const std::vector<AttentionSegment>& segments,
           std::initializer_list<const Tensor*> tensors) {
  for (const AttentionSegment& s : segments)
    if (window && s.offset + s.q_count > window) return false;  // some row has keys outside its window
  const int64_t D = (*tensors.begin())->dim(2);
  return (D == 64 || D == 128) && std::all_of(tensors.begin(), tensors.end(), [](const Tensor* t) {
           return t->dtype() == DType::bf16 && reinterpret_cast<uintptr_t>(t->raw()) % 16 == 0;
         });
}

}  // namespace

bool flash_attention_takes(const AttentionForwardArgs& args) {
  return takes(args.window, args.segments, {&args.q, &args.k, &args.v, &args.out});
}
bool flash_attention_takes(const AttentionBackwardArgs& args) {
  return takes(args.window, args.segments,
               {&args.q, &args.k, &args.v, &args.out, &args.dout, &args.dq, &args.dk, &args.dv});
}

void flash_attention_forward(const Stream& stream, const AttentionForwardArgs& args) {
  if (takes_hopper_attention(args.q.device())) return hopper_attention_forward(stream, args);
  args.q.dim(2) == 64 ? forward<64>(stream, args) : forward<128>(stream, args);
}

}  // namespace wuneng::kernels::cuda

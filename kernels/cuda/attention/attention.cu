// Attention in tiles of 32 query rows by 32 key rows, computed in f32 (notation of kernels/attention.h), for
// f32 or bf16 activations and heads of any width up to 256. A block owns a tile of rows and loops over the
// tiles on the other side: products on tensor cores at f32 precision (tensor_core.h), softmax with eight
// threads per row of scores. Scores stay in shared memory; every output has one writer and a fixed order of
// summation. flash_attention.h has the faster kernels for bf16 and heads of 64 or 128 channels
// without a window, decode_attention.h those for segments of few queries.
#include "kernels/attention.h"
#include "kernels/cuda/attention/attention_tables.h"
#include "kernels/cuda/attention/decode_attention.h"
#include "kernels/cuda/attention/flash_attention.h"
#include "kernels/cuda/common/tensor_core.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kTile = 32, kLanes = 8;     // rows of a tile, threads of a row of scores
constexpr int kShare = kTile / kLanes;    // scores of a thread
constexpr int kMost = 256;                // channels
constexpr int kScores = pitch_of(kTile);  // of a tile of scores
static_assert(kTile * kLanes == kBlock);

constexpr int64_t kAll = int64_t{1} << 40;  // more keys than there are

struct Sizes {
  int64_t H, G;
  int D, P;  // channels, and the pitch of a tile of them (see tensor_core.h)
  float scale;
  int64_t window;  // keys that a query row attends to at most

  // The first key of the first tile that rows from `row` of the segment on attend to.
  __device__ int64_t first_key(const DeviceSegment& s, int64_t row) const {
    return max(int64_t{0}, s.offset + row + 1 - window) / kTile * kTile;
  }
};

// Rows [first, first + kTile) of head h of x [rows, heads, D] to shared memory, those from `last` on zero.
__device__ void load_tile(float* tile, FloatPointer x, int64_t first, int64_t last, int64_t heads, int64_t h,
                          const Sizes& n) {
  for (int i = threadIdx.x; i < kTile * n.D; i += kBlock) {
    const int row = i / n.D, c = i % n.D;
    tile[row * n.P + c] = first + row < last ? x[((first + row) * heads + h) * n.D + c] : 0.0f;
  }
}

__device__ void clear_tile(float* tile, const Sizes& n) {
  for (int i = threadIdx.x; i < kTile * n.P; i += kBlock) tile[i] = 0.0f;
}

// Stores the rows of a tile to x, up to `last`. kAdd: accumulates without atomics (each row has one writer).
template <bool kAdd>
__device__ void store_tile(const float* tile, FloatPointer x, int64_t first, int64_t last, int64_t heads,
                           int64_t h, const Sizes& n) {
  for (int i = threadIdx.x; i < kTile * n.D; i += kBlock) {
    const int row = i / n.D, c = i % n.D;
    if (first + row >= last) return;
    const int64_t to = ((first + row) * heads + h) * n.D + c;
    x.store(to, (kAdd ? x[to] : 0.0f) + tile[row * n.P + c]);
  }
}

// Sum over the eight threads of a row.
__device__ float row_sum(float x) {
  for (int mask = kLanes / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
  return x;
}
__device__ float row_max(float x) {
  for (int mask = kLanes / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, mask));
  return x;
}

// a [32, D] b [32, D]^T -> scores [32, 32]
__device__ void scores_of(const float* a, const float* b, float* scores, const Sizes& n) {
  multiply(kTile, kTile, n.D, rows_of(a, n.P), columns_of(b, n.P), scores, kScores);
}
// out [32, D] += scores [32, 32] x [32, D]
__device__ void add_weighted(const float* scores, const float* x, float* out, const Sizes& n) {
  multiply<true>(kTile, n.D, kTile, rows_of(scores, kScores), rows_of(x, n.P), out, n.P);
}

// Grid (query tile, head); tables as AttentionTables has them.
__global__ void __launch_bounds__(kBlock)
    forward_kernel(Sizes n, const int32_t* tiles, const int32_t* segments, const int32_t* kv_head,
                   FloatPointer q, FloatPointer k, FloatPointer v, FloatPointer out, float* lse) {
  const int size = kTile * n.P;
  float *q_tile = shared_memory<float>(), *k_tile = q_tile + size, *v_tile = k_tile + size,
        *sum_tile = v_tile + size, *p = sum_tile + size;
  const DeviceSegment s = segment_at(segments, tiles[2 * blockIdx.x]);
  const int64_t h = blockIdx.y, g = kv_head[h], first = tiles[2 * blockIdx.x + 1];
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int64_t i = first + row, seen = i < s.q_count ? s.offset + i + 1 : 0;  // keys
  const int64_t last_key = s.offset + min(first + kTile, int64_t{s.q_count});
  load_tile(q_tile, q, s.q_begin + first, s.q_begin + s.q_count, n.H, h, n);
  clear_tile(sum_tile, n);
  float best = -INFINITY, sum = 0;
  for (int64_t key = n.first_key(s, first); key < last_key; key += kTile) {
    load_tile(k_tile, k, s.k_begin + key, s.k_begin + last_key, n.G, g, n);
    load_tile(v_tile, v, s.k_begin + key, s.k_begin + last_key, n.G, g, n);
    __syncthreads();
    scores_of(q_tile, k_tile, p, n);
    float score[kShare], top = -INFINITY;
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int j = lane + m * kLanes;
      const bool attends = key + j < seen && key + j >= seen - n.window;
      score[m] = attends ? n.scale * p[row * kScores + j] : -INFINITY;
      top = fmaxf(top, score[m]);
    }
    const float next = fmaxf(best, row_max(top));
    const float keep =
        best == next ? 1.0f : expf(best - next);  // rescales the running sums to the new maximum
    float added = 0;
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const float e = score[m] == -INFINITY ? 0.0f : expf(score[m] - next);
      p[row * kScores + lane + m * kLanes] = e;
      added += e;
    }
    sum = sum * keep + row_sum(added);
    best = next;
    if (keep != 1.0f)
      for (int c = lane; c < n.D; c += kLanes) sum_tile[row * n.P + c] *= keep;
    __syncthreads();
    add_weighted(p, v_tile, sum_tile, n);
  }
  if (seen > 0) {
    for (int c = lane; c < n.D; c += kLanes) sum_tile[row * n.P + c] /= sum;
    if (lane == 0) lse[(s.q_begin + i) * n.H + h] = best + logf(sum);
  }
  __syncthreads();
  store_tile<false>(sum_tile, out, s.q_begin + first, s.q_begin + s.q_count, n.H, h, n);
}

// delta [Tq, H] = out . dout, one warp per row.
__global__ void delta_kernel(int64_t rows, int64_t D, FloatPointer out, FloatPointer dout, float* delta) {
  const int64_t i = int64_t{blockIdx.x} * (kBlock / kWarp) + threadIdx.y;
  if (i >= rows) return;
  float sum = 0;
  for (int64_t c = threadIdx.x; c < D; c += kWarp) sum += out[i * D + c] * dout[i * D + c];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) delta[i] = sum;
}

// As forward_kernel, with ds = p (dp - delta) in place of p: dq = scale sum ds k.
__global__ void __launch_bounds__(kBlock)
    query_grad_kernel(Sizes n, const int32_t* tiles, const int32_t* segments, const int32_t* kv_head,
                      FloatPointer q, FloatPointer k, FloatPointer v, const float* lse, const float* delta,
                      FloatPointer dout, FloatPointer dq) {
  const int size = kTile * n.P;
  float *q_tile = shared_memory<float>(), *do_tile = q_tile + size, *k_tile = do_tile + size,
        *v_tile = k_tile + size, *dq_tile = v_tile + size, *p = dq_tile + size, *dp = p + kTile * kScores;
  const DeviceSegment s = segment_at(segments, tiles[2 * blockIdx.x]);
  const int64_t h = blockIdx.y, g = kv_head[h], first = tiles[2 * blockIdx.x + 1];
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int64_t i = first + row, seen = i < s.q_count ? s.offset + i + 1 : 0, at = (s.q_begin + i) * n.H + h;
  const int64_t last_key = s.offset + min(first + kTile, int64_t{s.q_count});
  load_tile(q_tile, q, s.q_begin + first, s.q_begin + s.q_count, n.H, h, n);
  load_tile(do_tile, dout, s.q_begin + first, s.q_begin + s.q_count, n.H, h, n);
  clear_tile(dq_tile, n);
  const float my_lse = seen ? lse[at] : 0.0f, my_delta = seen ? delta[at] : 0.0f;
  for (int64_t key = n.first_key(s, first); key < last_key; key += kTile) {
    load_tile(k_tile, k, s.k_begin + key, s.k_begin + last_key, n.G, g, n);
    load_tile(v_tile, v, s.k_begin + key, s.k_begin + last_key, n.G, g, n);
    __syncthreads();
    scores_of(q_tile, k_tile, p, n);
    scores_of(do_tile, v_tile, dp, n);
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int j = lane + m * kLanes, e = row * kScores + j;
      const bool attends = key + j < seen && key + j >= seen - n.window;
      p[e] = attends ? n.scale * expf(n.scale * p[e] - my_lse) * (dp[e] - my_delta) : 0.0f;
    }
    __syncthreads();
    add_weighted(p, k_tile, dq_tile, n);
  }
  store_tile<false>(dq_tile, dq, s.q_begin + first, s.q_begin + s.q_count, n.H, h, n);
}

// Grid (key tile, key/value head). Scores are transposed here: a row for each key.
__global__ void __launch_bounds__(kBlock, 2)
    key_grad_kernel(Sizes n, int64_t Tk, const int32_t* key_tiles, const int32_t* segment_offsets,
                    const int32_t* segment_indices, const int32_t* segments, const int32_t* first_head,
                    FloatPointer q, FloatPointer k, FloatPointer v, const float* lse, const float* delta,
                    FloatPointer dout, FloatPointer dk, FloatPointer dv) {
  const int size = kTile * n.P;
  float *k_tile = shared_memory<float>(), *v_tile = k_tile + size, *q_tile = v_tile + size,
        *do_tile = q_tile + size, *dk_tile = do_tile + size, *dv_tile = dk_tile + size, *p = dv_tile + size,
        *ds = p + kTile * kScores;
  const int32_t b = key_tiles[blockIdx.x];
  const int64_t g = blockIdx.y, key_begin = int64_t{b} * kTile, key_end = min(Tk, key_begin + kTile);
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int64_t key = key_begin + row;
  load_tile(k_tile, k, key_begin, key_end, n.G, g, n);
  load_tile(v_tile, v, key_begin, key_end, n.G, g, n);
  clear_tile(dk_tile, n);
  clear_tile(dv_tile, n);
  for (int32_t one = segment_offsets[b]; one < segment_offsets[b + 1]; ++one) {
    const DeviceSegment s = segment_at(segments, segment_indices[one]);
    // The queries that attend to a key of the tile: from the first's tile on, and the last's end.
    const int64_t start = max(int64_t{0}, key_begin - s.k_begin - s.offset) / kTile * kTile,
                  end = min(int64_t{s.q_count}, key_end - 1 - s.k_begin - s.offset + n.window);
    for (int64_t h = first_head[g]; h < first_head[g + 1]; ++h) {
      for (int64_t first = start; first < end; first += kTile) {
        load_tile(q_tile, q, s.q_begin + first, s.q_begin + s.q_count, n.H, h, n);
        load_tile(do_tile, dout, s.q_begin + first, s.q_begin + s.q_count, n.H, h, n);
        __syncthreads();
        scores_of(k_tile, q_tile, p, n);
        scores_of(v_tile, do_tile, ds, n);
#pragma unroll
        for (int m = 0; m < kShare; ++m) {
          const int j = lane + m * kLanes, e = row * kScores + j;
          const int64_t i = first + j, at = (s.q_begin + i) * n.H + h;
          float probability = 0, slope = 0;
          const int64_t own = s.k_begin + s.offset + i;  // the query's own key
          if (i < s.q_count && key < key_end && key >= s.k_begin && key <= own && key > own - n.window) {
            probability = expf(n.scale * p[e] - lse[at]);
            slope = n.scale * probability * (ds[e] - delta[at]);
          }
          p[e] = probability;
          ds[e] = slope;
        }
        __syncthreads();
        add_weighted(p, do_tile, dv_tile, n);
        add_weighted(ds, q_tile, dk_tile, n);
      }
    }
  }
  __syncthreads();
  store_tile<true>(dk_tile, dk, key_begin, key_end, n.G, g, n);
  store_tile<true>(dv_tile, dv, key_begin, key_end, n.G, g, n);
}

template <class Args>
Sizes sizes_of(const Args& args) {
  const int D = static_cast<int>(args.q.dim(2));
  if (D > kMost) fail("attention: {} channels a head, expected at most {}", D, kMost);
  return {args.q.dim(1),
          args.k.dim(1),
          D,
          pitch_of(D),
          1 / std::sqrt(static_cast<float>(D)),
          args.window ? args.window : kAll};
}

size_t shared_bytes(const Sizes& n, int tiles, int scores) {
  return (tiles * kTile * n.P + scores * kTile * kScores) * sizeof(float);
}

}  // namespace

void attention_forward(const Stream& stream, const AttentionForwardArgs& args) {
  if (decode_attention_takes(args)) return decode_attention(stream, args);
  WUNENG_ASSERT(!args.table.defined());
  if (flash_attention_takes(args)) return flash_attention_forward(stream, args);
  const Sizes n = sizes_of(args);
  const AttentionTables t(args.segments, args.kv_head, args.k.dim(0), n.G, kTile, kTile, args.q.device());
  launch(stream, "attention forward", forward_kernel, dim3(t.query_tile_count, n.H), dim3(kBlock),
         shared_bytes(n, 4, 1), n, t.query_tiles.data<int32_t>(), t.segments.data<int32_t>(),
         t.kv_head.data<int32_t>(), float_pointer(args.q), float_pointer(args.k), float_pointer(args.v),
         float_pointer(args.out), args.lse.f32());
}

void attention_backward(const Stream& stream, const AttentionBackwardArgs& args) {
  if (flash_attention_takes(args)) return flash_attention_backward(stream, args);
  const Sizes n = sizes_of(args);
  const AttentionTables t(args.segments, args.kv_head, args.k.dim(0), n.G, kTile, kTile, args.q.device());
  const int64_t rows = args.q.dim(0) * n.H;
  const Tensor delta = Tensor::empty({rows}, DType::f32, args.q.device());
  launch(stream, "attention delta", delta_kernel, dim3(blocks_for(rows, kBlock / kWarp)),
         dim3(kWarp, kBlock / kWarp), 0, rows, int64_t{n.D}, float_pointer(args.out),
         float_pointer(args.dout), delta.f32());
  launch(stream, "attention backward of queries", query_grad_kernel, dim3(t.query_tile_count, n.H),
         dim3(kBlock), shared_bytes(n, 5, 2), n, t.query_tiles.data<int32_t>(), t.segments.data<int32_t>(),
         t.kv_head.data<int32_t>(), float_pointer(args.q), float_pointer(args.k), float_pointer(args.v),
         args.lse.f32(), delta.f32(), float_pointer(args.dout), float_pointer(args.dq));
  launch(stream, "attention backward of keys", key_grad_kernel, dim3(t.key_tile_count, n.G), dim3(kBlock),
         shared_bytes(n, 6, 2), n, args.k.dim(0), t.key_tiles.data<int32_t>(),
         t.segment_offsets.data<int32_t>(), t.segment_indices.data<int32_t>(), t.segments.data<int32_t>(),
         t.first_head.data<int32_t>(), float_pointer(args.q), float_pointer(args.k), float_pointer(args.v),
         args.lse.f32(), delta.f32(), float_pointer(args.dout), float_pointer(args.dk),
         float_pointer(args.dv));
}

}  // namespace wuneng::kernels::cuda

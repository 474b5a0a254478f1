// Attention in tiles of 32 query rows by 32 key rows, all in f32 (notation of kernels/attention.h). A block
// owns a tile of rows and goes through the tiles that they meet; eight threads share a row, each with a part
// of its scores and of its channels. No scores leave the block, and every output has one writer and one order
// of summation.
#include "kernels/attention.h"
#include "kernels/cuda/upload.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kTile = 32, kLanes = 8;   // rows of a tile, threads of a row
constexpr int kShare = kTile / kLanes;  // scores of a thread in a tile
constexpr int kMost = 256;              // channels
constexpr int kPitch = kTile + 1;       // of a tile of scores: no two rows begin in one bank

struct Sizes {
  int64_t H, G, D;
  float scale;
};

// Whose turn it is in a block: rows of a segment, and the head.
struct Segment {
  int32_t q_begin, q_count, k_begin, offset;
};
__device__ Segment segment_at(const int32_t* segments, int32_t s) {
  const int32_t* at = segments + 4 * s;
  return {at[0], at[1], at[2], at[3]};
}

// Rows [first, first + kTile) of head h of x [rows, heads, D] to shared memory, those from `last` on zero.
__device__ void load_tile(float* tile, const float* x, int64_t first, int64_t last, int64_t heads, int64_t h,
                          int64_t D) {
  for (int64_t i = threadIdx.x; i < kTile * D; i += kTile * kLanes) {
    const int64_t row = first + i / D;
    tile[i] = row < last ? x[(row * heads + h) * D + i % D] : 0.0f;
  }
}

__device__ float dot(const float* a, const float* b, int64_t D) {
  float sum = 0;
  for (int64_t c = 0; c < D; ++c) sum += a[c] * b[c];
  return sum;
}

// Over the eight threads of a row.
__device__ float row_sum(float x) {
  for (int mask = kLanes / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
  return x;
}
__device__ float row_max(float x) {
  for (int mask = kLanes / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, mask));
  return x;
}

// Grid (query tile, head). tiles [.., 2]: segment and first query in it.
template <int kOwn>  // channels of a thread at most
__global__ void __launch_bounds__(kTile* kLanes)
    forward_kernel(Sizes x, const int32_t* tiles, const int32_t* segments, const int32_t* kv_head,
                   const float* q, const float* k, const float* v, float* out, float* lse) {
  float *q_tile = shared_memory<float>(), *k_tile = q_tile + kTile * x.D, *v_tile = k_tile + kTile * x.D,
        *p = v_tile + kTile * x.D;  // [kTile, kPitch]
  const Segment s = segment_at(segments, tiles[2 * blockIdx.x]);
  const int64_t h = blockIdx.y, g = kv_head[h], first = tiles[2 * blockIdx.x + 1];
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int64_t i = first + row, seen = i < s.q_count ? s.offset + i + 1 : 0;  // keys
  const int64_t last_key = s.offset + min(first + kTile, int64_t{s.q_count});
  load_tile(q_tile, q, s.q_begin + first, s.q_begin + s.q_count, x.H, h, x.D);
  float best = -INFINITY, sum = 0, own[kOwn] = {};
  for (int64_t key = 0; key < last_key; key += kTile) {
    __syncthreads();
    load_tile(k_tile, k, s.k_begin + key, s.k_begin + last_key, x.G, g, x.D);
    load_tile(v_tile, v, s.k_begin + key, s.k_begin + last_key, x.G, g, x.D);
    __syncthreads();
    float score[kShare], top = -INFINITY;
    for (int n = 0; n < kShare; ++n) {
      const int j = lane + n * kLanes;
      score[n] = key + j < seen ? x.scale * dot(q_tile + row * x.D, k_tile + j * x.D, x.D) : -INFINITY;
      top = fmaxf(top, score[n]);
    }
    const float next = fmaxf(best, row_max(top));
    const float keep =
        best == next ? 1.0f : expf(best - next);  // what was summed so far is scaled to the new maximum
    float added = 0;
    for (int n = 0; n < kShare; ++n) {
      const float e = score[n] == -INFINITY ? 0.0f : expf(score[n] - next);
      p[row * kPitch + lane + n * kLanes] = e;
      added += e;
    }
    sum = sum * keep + row_sum(added);
    best = next;
    __syncwarp();  // a row's threads are of one warp
    for (int n = 0; n < kOwn; ++n) {
      const int64_t c = lane + n * kLanes;
      if (c >= x.D) break;
      float total = own[n] * keep;
      for (int j = 0; j < kTile; ++j) total += p[row * kPitch + j] * v_tile[j * x.D + c];
      own[n] = total;
    }
  }
  if (seen == 0) return;
  const int64_t at = (s.q_begin + i) * x.H + h;
  for (int n = 0; n < kOwn; ++n)
    if (lane + n * kLanes < x.D) out[at * x.D + lane + n * kLanes] = own[n] / sum;
  if (lane == 0) lse[at] = best + logf(sum);
}

// delta [Tq, H] = out . dout, a warp a row.
__global__ void delta_kernel(int64_t rows, int64_t D, const float* out, const float* dout, float* delta) {
  const int64_t i = int64_t{blockIdx.x} * (kBlock / kWarp) + threadIdx.y;
  if (i >= rows) return;
  float sum = 0;
  for (int64_t c = threadIdx.x; c < D; c += kWarp) sum += out[i * D + c] * dout[i * D + c];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) delta[i] = sum;
}

// As forward_kernel, with ds = p (dp - delta) in place of p: dq = scale sum ds k.
template <int kOwn>
__global__ void __launch_bounds__(kTile* kLanes)
    query_grad_kernel(Sizes x, const int32_t* tiles, const int32_t* segments, const int32_t* kv_head,
                      const float* q, const float* k, const float* v, const float* lse, const float* delta,
                      const float* dout, float* dq) {
  float *q_tile = shared_memory<float>(), *do_tile = q_tile + kTile * x.D, *k_tile = do_tile + kTile * x.D,
        *v_tile = k_tile + kTile * x.D, *ds = v_tile + kTile * x.D;  // [kTile, kPitch]
  const Segment s = segment_at(segments, tiles[2 * blockIdx.x]);
  const int64_t h = blockIdx.y, g = kv_head[h], first = tiles[2 * blockIdx.x + 1];
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int64_t i = first + row, seen = i < s.q_count ? s.offset + i + 1 : 0, at = (s.q_begin + i) * x.H + h;
  const int64_t last_key = s.offset + min(first + kTile, int64_t{s.q_count});
  load_tile(q_tile, q, s.q_begin + first, s.q_begin + s.q_count, x.H, h, x.D);
  load_tile(do_tile, dout, s.q_begin + first, s.q_begin + s.q_count, x.H, h, x.D);
  const float my_lse = seen ? lse[at] : 0.0f, my_delta = seen ? delta[at] : 0.0f;
  float own[kOwn] = {};
  for (int64_t key = 0; key < last_key; key += kTile) {
    __syncthreads();
    load_tile(k_tile, k, s.k_begin + key, s.k_begin + last_key, x.G, g, x.D);
    load_tile(v_tile, v, s.k_begin + key, s.k_begin + last_key, x.G, g, x.D);
    __syncthreads();
    for (int n = 0; n < kShare; ++n) {
      const int j = lane + n * kLanes;
      float value = 0;
      if (key + j < seen) {
        const float p = expf(x.scale * dot(q_tile + row * x.D, k_tile + j * x.D, x.D) - my_lse);
        value = x.scale * p * (dot(do_tile + row * x.D, v_tile + j * x.D, x.D) - my_delta);
      }
      ds[row * kPitch + j] = value;
    }
    __syncwarp();
    for (int n = 0; n < kOwn; ++n) {
      const int64_t c = lane + n * kLanes;
      if (c >= x.D) break;
      float total = own[n];
      for (int j = 0; j < kTile; ++j) total += ds[row * kPitch + j] * k_tile[j * x.D + c];
      own[n] = total;
    }
  }
  if (seen == 0) return;
  for (int n = 0; n < kOwn; ++n)
    if (lane + n * kLanes < x.D) dq[at * x.D + lane + n * kLanes] = own[n];
}

// Grid (key tile, key/value head). The segments that see rows of key tile b are seeing[first_of[b] ..
// first_of[b + 1]).
template <int kOwn>
__global__ void __launch_bounds__(kTile* kLanes)
    key_grad_kernel(Sizes x, int64_t Tk, const int32_t* first_of, const int32_t* seeing,
                    const int32_t* segments, const int32_t* kv_head, const float* q, const float* k,
                    const float* v, const float* lse, const float* delta, const float* dout, float* dk,
                    float* dv) {
  float *k_tile = shared_memory<float>(), *v_tile = k_tile + kTile * x.D, *q_tile = v_tile + kTile * x.D,
        *do_tile = q_tile + kTile * x.D, *p = do_tile + kTile * x.D, *ds = p + kTile * kPitch;
  const int64_t g = blockIdx.y, key_begin = int64_t{blockIdx.x} * kTile, key_end = min(Tk, key_begin + kTile);
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int64_t key = key_begin + row;
  float own_k[kOwn] = {}, own_v[kOwn] = {};
  load_tile(k_tile, k, key_begin, key_end, x.G, g, x.D);
  load_tile(v_tile, v, key_begin, key_end, x.G, g, x.D);
  for (int32_t n = first_of[blockIdx.x]; n < first_of[blockIdx.x + 1]; ++n) {
    const Segment s = segment_at(segments, seeing[n]);
    // The first query that sees any key of the tile.
    const int64_t start = max(int64_t{0}, key_begin - s.k_begin - s.offset) / kTile * kTile;
    for (int64_t h = 0; h < x.H; ++h) {
      if (kv_head[h] != g) continue;
      for (int64_t first = start; first < s.q_count; first += kTile) {
        __syncthreads();
        load_tile(q_tile, q, s.q_begin + first, s.q_begin + s.q_count, x.H, h, x.D);
        load_tile(do_tile, dout, s.q_begin + first, s.q_begin + s.q_count, x.H, h, x.D);
        __syncthreads();
        for (int m = 0; m < kShare; ++m) {
          const int j = lane + m * kLanes;
          const int64_t i = first + j, at = (s.q_begin + i) * x.H + h;
          float probability = 0, slope = 0;
          if (i < s.q_count && key < key_end && key >= s.k_begin && key <= s.k_begin + s.offset + i) {
            probability = expf(x.scale * dot(q_tile + j * x.D, k_tile + row * x.D, x.D) - lse[at]);
            slope = x.scale * probability * (dot(do_tile + j * x.D, v_tile + row * x.D, x.D) - delta[at]);
          }
          p[row * kPitch + j] = probability;
          ds[row * kPitch + j] = slope;
        }
        __syncwarp();
        for (int m = 0; m < kOwn; ++m) {
          const int64_t c = lane + m * kLanes;
          if (c >= x.D) break;
          float to_k = own_k[m], to_v = own_v[m];
          for (int j = 0; j < kTile; ++j) {
            to_k += ds[row * kPitch + j] * q_tile[j * x.D + c];
            to_v += p[row * kPitch + j] * do_tile[j * x.D + c];
          }
          own_k[m] = to_k;
          own_v[m] = to_v;
        }
      }
    }
  }
  if (key >= key_end) return;
  for (int m = 0; m < kOwn; ++m) {
    const int64_t c = lane + m * kLanes;
    if (c >= x.D) break;
    dk[(key * x.G + g) * x.D + c] += own_k[m];
    dv[(key * x.G + g) * x.D + c] += own_v[m];
  }
}

// The tables of a launch, on the GPU.
struct Tables {
  Tensor segments, query_tiles, first_of, seeing, kv_head;
  unsigned query_tile_count = 0, key_tile_count = 0;

  Tables(const std::vector<AttentionSegment>& all, const std::vector<int>& heads, int64_t Tk, Device device) {
    std::vector<int32_t> flat, tiles, first, see;
    const auto put = [](std::vector<int32_t>& to, std::initializer_list<int64_t> values) {
      for (const int64_t v : values) to.push_back(static_cast<int32_t>(v));
    };
    key_tile_count = blocks_for(Tk, kTile);
    std::vector<std::vector<int32_t>> by_tile(key_tile_count);
    for (size_t n = 0; n < all.size(); ++n) {
      const AttentionSegment& s = all[n];
      put(flat, {s.q_begin, s.q_count, s.k_begin, s.offset});
      for (int64_t at = 0; at < s.q_count; at += kTile) put(tiles, {static_cast<int64_t>(n), at});
      const int64_t end = s.q_count ? s.k_begin + s.offset + s.q_count : s.k_begin;
      for (int64_t b = s.k_begin / kTile; b * kTile < end; ++b) by_tile[b].push_back(static_cast<int32_t>(n));
    }
    for (const auto& tile : by_tile) {
      first.push_back(static_cast<int32_t>(see.size()));
      see.insert(see.end(), tile.begin(), tile.end());
    }
    first.push_back(static_cast<int32_t>(see.size()));
    query_tile_count = static_cast<unsigned>(tiles.size() / 2);
    segments = upload(flat, device), query_tiles = upload(tiles, device), first_of = upload(first, device);
    seeing = upload(see, device), kv_head = upload(std::vector<int32_t>(heads.begin(), heads.end()), device);
  }
};

template <class Args>
Sizes sizes_of(const Args& args) {
  const Sizes x{args.q.dim(1), args.k.dim(1), args.q.dim(2),
                1 / std::sqrt(static_cast<float>(args.q.dim(2)))};
  if (x.D > kMost) fail("attention: {} channels a head, expected at most {}", x.D, kMost);
  return x;
}

size_t shared_bytes(int64_t D, int tiles, int scores) {
  return (tiles * kTile * D + scores * kTile * kPitch) * sizeof(float);
}

template <int kOwn>
void forward(const Stream& stream, const AttentionForwardArgs& args, const Sizes& x, const Tables& t) {
  launch(stream, "attention forward", forward_kernel<kOwn>, dim3(t.query_tile_count, x.H),
         dim3(kTile * kLanes), shared_bytes(x.D, 3, 1), x, t.query_tiles.data<int32_t>(),
         t.segments.data<int32_t>(), t.kv_head.data<int32_t>(), args.q.f32(), args.k.f32(), args.v.f32(),
         args.out.f32(), args.lse.f32());
}

template <int kOwn>
void backward(const Stream& stream, const AttentionBackwardArgs& args, const Sizes& x, const Tables& t,
              const Tensor& delta) {
  launch(stream, "attention backward of queries", query_grad_kernel<kOwn>, dim3(t.query_tile_count, x.H),
         dim3(kTile * kLanes), shared_bytes(x.D, 4, 1), x, t.query_tiles.data<int32_t>(),
         t.segments.data<int32_t>(), t.kv_head.data<int32_t>(), args.q.f32(), args.k.f32(), args.v.f32(),
         args.lse.f32(), delta.f32(), args.dout.f32(), args.dq.f32());
  launch(stream, "attention backward of keys", key_grad_kernel<kOwn>, dim3(t.key_tile_count, x.G),
         dim3(kTile * kLanes), shared_bytes(x.D, 4, 2), x, args.k.dim(0), t.first_of.data<int32_t>(),
         t.seeing.data<int32_t>(), t.segments.data<int32_t>(), t.kv_head.data<int32_t>(), args.q.f32(),
         args.k.f32(), args.v.f32(), args.lse.f32(), delta.f32(), args.dout.f32(), args.dk.f32(),
         args.dv.f32());
}

}  // namespace

void attention_forward(const Stream& stream, const AttentionForwardArgs& args) {
  const Sizes x = sizes_of(args);
  const Tables t(args.segments, args.kv_head, args.k.dim(0), args.q.device());
  const auto run = x.D <= 64 ? forward<8> : x.D <= 128 ? forward<16> : forward<32>;
  run(stream, args, x, t);
}

void attention_backward(const Stream& stream, const AttentionBackwardArgs& args) {
  const Sizes x = sizes_of(args);
  const Tables t(args.segments, args.kv_head, args.k.dim(0), args.q.device());
  const int64_t rows = args.q.dim(0) * x.H;
  const Tensor delta = Tensor::empty({rows}, DType::f32, args.q.device());
  launch(stream, "attention delta", delta_kernel, dim3(blocks_for(rows, kBlock / kWarp)),
         dim3(kWarp, kBlock / kWarp), 0, rows, x.D, args.out.f32(), args.dout.f32(), delta.f32());
  const auto run = x.D <= 64 ? backward<8> : x.D <= 128 ? backward<16> : backward<32>;
  run(stream, args, x, t, delta);
}

}  // namespace wuneng::kernels::cuda

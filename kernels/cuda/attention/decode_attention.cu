#include "kernels/cuda/attention/attention_tables.h"
#include "kernels/cuda/attention/decode_attention.h"
#include "runtime/cuda/device.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int64_t kFewQueries = 4;  // of a segment; each reads the keys for itself
constexpr int kThreads = 128;
constexpr int kElements = 8;              // channels of a lane
constexpr int kMost = kWarp * kElements;  // channels of a head
constexpr int kKeys = 4;                  // that a stream reads together
constexpr int kHeadsTogether = 8;         // of one key/value head, in a thread block
constexpr int64_t kMostSplits = 32;

struct Problem {
  const int32_t *segments, *first_head;
  int64_t H, G, window;
  int D, splits;
  int lanes;    // of a stream: a power of two, lanes * kElements >= D
  float scale;  // of scores, in base 2
};

// A result of one head over some of its keys: the largest score, in base 2, the sum of 2^(score - largest),
// and the sum of values [D] with these weights.
__device__ int row_size(const Problem& p) { return p.D + 2; }

// This lane's elements of a row [D] of T, in vectors of V; those beyond the row are zero.
template <int V, class T>
__device__ void load_elements(float (&to)[kElements], const T* row, const Problem& p, int lane) {
#pragma unroll
  for (int i = 0; i < kElements / V; ++i) {
    const int c = (lane + i * p.lanes) * V;
    FloatVector<V> x;
    if (c < p.D) x = load<V>(row + c);
#pragma unroll
    for (int v = 0; v < V; ++v) to[i * V + v] = x.x[v];
  }
}

// One stream's running softmax of one head.
struct Running {
  float best = -INFINITY, sum = 0;
  float values[kElements] = {};
};

// Grid (split, key/value head and its group of kHeads query heads, segment). Every `lanes` threads are a
// stream: they go through keys of the split, kKeys at a time, and the streams' results are combined at the
// end.
template <class T, int V, int kHeads>
__global__ void __launch_bounds__(kThreads)
    split_kernel(Problem p, int groups, const T* q, const T* k, const T* v, T* out, float* partial) {
  const DeviceSegment s = segment_at(p.segments, blockIdx.z);
  const int64_t g = blockIdx.y / groups;
  const int first = p.first_head[g] + static_cast<int>(blockIdx.y) % groups * kHeads,
            heads = min(kHeads, p.first_head[g + 1] - first);
  if (heads <= 0) return;
  const int lane = threadIdx.x % p.lanes, stream = threadIdx.x / p.lanes, streams = kThreads / p.lanes;
  const int64_t end = s.offset + 1, begin = max(int64_t{0}, end - p.window),
                share = ((end - begin + p.splits - 1) / p.splits + kKeys - 1) / kKeys * kKeys,
                split_begin = begin + blockIdx.x * share, split_end = min(end, split_begin + share);
  float query[kHeads][kElements];
  Running running[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h)
    load_elements<V>(query[h], q + (s.q_begin * p.H + first + min(h, heads - 1)) * p.D, p, lane);
  // Every stream runs as often as the first one: all lanes of a warp take part in its exchanges.
  for (int64_t from = split_begin; from < split_end; from += streams * kKeys) {
    const int64_t key = from + stream * kKeys;
    const auto row = [&](int j) { return ((s.k_begin + min(key + j, split_end - 1)) * p.G + g) * p.D; };
    float keys[kKeys][kElements], values[kKeys][kElements];
#pragma unroll
    for (int j = 0; j < kKeys; ++j) load_elements<V>(keys[j], k + row(j), p, lane);
#pragma unroll
    for (int j = 0; j < kKeys; ++j) load_elements<V>(values[j], v + row(j), p, lane);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= heads) break;
      float score[kKeys], top = running[h].best;
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        float sum = 0;
#pragma unroll
        for (int e = 0; e < kElements; ++e) sum += query[h][e] * keys[j][e];
        for (int mask = p.lanes / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
        score[j] = key + j < split_end ? sum * p.scale : -INFINITY;
        top = fmaxf(top, score[j]);
      }
      if (top == -INFINITY) continue;
      const float keep = exp2f(running[h].best - top);
      running[h].best = top;
      running[h].sum *= keep;
#pragma unroll
      for (int e = 0; e < kElements; ++e) running[h].values[e] *= keep;
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        const float weight = exp2f(score[j] - top);
        running[h].sum += weight;
#pragma unroll
        for (int e = 0; e < kElements; ++e) running[h].values[e] += weight * values[j][e];
      }
    }
  }
  const int size = row_size(p);
  float* const shared = shared_memory<float>();  // [streams, D + 2], of one head after the other
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h >= heads) break;
    float* const mine = shared + stream * size;
    __syncthreads();
    if (lane == 0) mine[0] = running[h].best, mine[1] = running[h].sum;
#pragma unroll
    for (int e = 0; e < kElements; ++e)
      if (const int c = (lane + e / V * p.lanes) * V + e % V; c < p.D) mine[2 + c] = running[h].values[e];
    __syncthreads();
    float best = -INFINITY;
    for (int i = 0; i < streams; ++i) best = fmaxf(best, shared[i * size]);
    const int64_t head = s.q_begin * p.H + first + h;
    float* const to = partial
                          ? partial + ((int64_t{blockIdx.z} * p.H + first + h) * p.splits + blockIdx.x) * size
                          : nullptr;
    float sum = 0;
    for (int i = 0; i < streams && best > -INFINITY; ++i)
      sum += exp2f(shared[i * size] - best) * shared[i * size + 1];
    for (int c = threadIdx.x; c < p.D; c += kThreads) {
      float value = 0;
      for (int i = 0; i < streams && best > -INFINITY; ++i)
        value += exp2f(shared[i * size] - best) * shared[i * size + 2 + c];
      if (to)
        to[2 + c] = value;
      else
        assign(out[head * p.D + c], value / sum);
    }
    if (to && threadIdx.x == 0) to[0] = best, to[1] = sum;
  }
}

// Grid (head, segment). A split without keys has the largest score -infinity.
template <class T>
__global__ void combine_kernel(Problem p, const float* partial, T* out) {
  const DeviceSegment s = segment_at(p.segments, blockIdx.y);
  const int size = row_size(p);
  const float* const of_head = partial + (int64_t{blockIdx.y} * p.H + blockIdx.x) * p.splits * size;
  float best = -INFINITY, sum = 0;
  for (int i = 0; i < p.splits; ++i) best = fmaxf(best, of_head[i * size]);
  for (int i = 0; i < p.splits; ++i) sum += exp2f(of_head[i * size] - best) * of_head[i * size + 1];
  for (int c = threadIdx.x; c < p.D; c += blockDim.x) {
    float value = 0;
    for (int i = 0; i < p.splits; ++i) value += exp2f(of_head[i * size] - best) * of_head[i * size + 2 + c];
    assign(out[(s.q_begin * p.H + blockIdx.x) * p.D + c], value / sum);
  }
}

// [segments, 4] of segments of one query each.
Tensor single_queries(const std::vector<AttentionSegment>& segments, Device device) {
  std::vector<int32_t> flat;
  for (const AttentionSegment& s : segments)
    for (int64_t i = 0; i < s.q_count; ++i)
      for (const int64_t x : {s.q_begin + i, int64_t{1}, s.k_begin, s.offset + i})
        flat.push_back(static_cast<int32_t>(x));
  return upload(flat, device).view({static_cast<int64_t>(flat.size()) / 4, 4});
}

template <class T>
void run(const Stream& stream, const AttentionForwardArgs& args) {
  const Device device = args.q.device();
  const int64_t H = args.q.dim(1), G = args.k.dim(1), D = args.q.dim(2);
  if (D > kMost) fail("attention: {} channels a head, expected at most {}", D, kMost);
  const Tensor segments = args.table.defined() ? args.table : single_queries(args.segments, device);
  const int64_t queries = segments.dim(0);
  std::vector<int32_t> first_head(G + 1);
  for (const int g : args.kv_head) ++first_head[g + 1];
  const int most_heads = *std::max_element(first_head.begin(), first_head.end());
  std::partial_sum(first_head.begin(), first_head.end(), first_head.begin());
  const Tensor heads = upload(first_head, device);
  int lanes = 1;
  while (lanes * kElements < D) lanes *= 2;
  // Of the numbers of queries and heads alone: a recorded launch fits sequences of any length.
  const int64_t blocks = std::max<int64_t>(1, queries * G), wanted = 2 * multiprocessors(device.index);
  const int64_t splits = std::clamp<int64_t>((wanted + blocks - 1) / blocks, 1, kMostSplits);
  const Problem p{.segments = segments.data<int32_t>(),
                  .first_head = heads.data<int32_t>(),
                  .H = H,
                  .G = G,
                  .window = args.window ? args.window : INT64_MAX,
                  .D = static_cast<int>(D),
                  .splits = static_cast<int>(splits),
                  .lanes = lanes,
                  .scale = 1.44269504f / std::sqrt(static_cast<float>(D))};
  const Tensor partial =
      splits > 1 ? Tensor::empty({queries, H, splits, D + 2}, DType::f32, device) : Tensor();
  constexpr int V = kVectorLength<T>;
  const bool vectorized = VectorWidth({args.q, args.k, args.v, args.out}).for_units_of(D).vectorized;
  const int together = most_heads == 1 ? 1 : kHeadsTogether, groups = (most_heads + together - 1) / together;
  const auto kernel =
      together == 1 ? (vectorized ? split_kernel<T, V, 1> : split_kernel<T, 1, 1>)
                    : (vectorized ? split_kernel<T, V, kHeadsTogether> : split_kernel<T, 1, kHeadsTogether>);
  launch(
      stream, "decode attention", kernel,
      dim3(static_cast<unsigned>(splits), static_cast<unsigned>(G * groups), static_cast<unsigned>(queries)),
      dim3(kThreads), kThreads / lanes * (D + 2) * sizeof(float), p, groups, args.q.data<T>(),
      args.k.data<T>(), args.v.data<T>(), args.out.data<T>(), f32_or_null(partial));
  if (splits > 1)
    launch(stream, "decode attention, splits", combine_kernel<T>,
           dim3(static_cast<unsigned>(H), static_cast<unsigned>(queries)), dim3(kThreads), 0, p,
           partial.f32(), args.out.data<T>());
}

}  // namespace

bool decode_attention_takes(const AttentionForwardArgs& args) {
  return args.by_row && std::all_of(args.segments.begin(), args.segments.end(),
                                    [](const AttentionSegment& s) { return s.q_count <= kFewQueries; });
}

void decode_attention(const Stream& stream, const AttentionForwardArgs& args) {
  args.q.dtype() == DType::bf16 ? run<bf16>(stream, args) : run<float>(stream, args);
}

}  // namespace wuneng::kernels::cuda

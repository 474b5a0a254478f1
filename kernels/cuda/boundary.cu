// Products of boundary states with rows, in f32: states are f32, and the products are few.
#include "kernels/boundary.h"
#include "kernels/cuda/common/upload.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kRows = 64;          // of a segment, for each thread block
constexpr int kInner = 64;         // channels that are summed over, in shared memory at a time
constexpr int kPitch = kRows + 4;  // fewer bank conflicts, aligned to 16 bytes
constexpr int kRowsOfWarp = kRows / (kBlock / kWarp);

// [row blocks, 3]: segment, first row, up to kRows rows.
Tensor row_block_table(const std::vector<Wkv7Segment>& segments, Device device) {
  std::vector<int32_t> flat;
  for (size_t s = 0; s < segments.size(); ++s)
    for (int64_t at = 0; at < segments[s].count; at += kRows)
      flat.insert(flat.end(), {static_cast<int32_t>(s), static_cast<int32_t>(segments[s].begin + at),
                               static_cast<int32_t>(std::min<int64_t>(kRows, segments[s].count - at))});
  return upload(flat, device);
}

struct Reading {
  const float* states;
  const int32_t* head_state;
  int64_t N, R;
  int D;
  bool transposed, accumulate;
  FloatPointer r, y, weight, normed;  // weight: null without a norm
  float eps;
};

// Shared memory: kInner rows of B^T, or of B if transposed [kInner, D + 1], then as many channels of r
// [kInner, kPitch].
size_t shared_bytes(int64_t D) { return kInner * (D + 1 + kPitch) * sizeof(float); }

// Grid (row block, reader). A warp has kRowsOfWarp rows, a lane every 32nd channel of each, kChannels of
// them.
template <int kChannels>
__global__ void __launch_bounds__(kBlock) boundary_read_kernel(Reading a, const int32_t* row_blocks) {
  const int32_t* const block = row_blocks + 3 * blockIdx.x;
  const int D = a.D, P = D + 1, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, count = block[2];
  const int64_t h = blockIdx.y;
  const float* const B = a.states + (int64_t{block[0]} * a.N + a.head_state[h]) * D * D;
  float *const seen = shared_memory<float>(), *const rows = seen + kInner * P;
  const auto at = [&](int row) { return ((block[1] + row) * a.R + h) * D; };
  float sum[kRowsOfWarp][kChannels] = {};
  for (int from = 0; from < D; from += kInner) {
    const int inner = min(kInner, D - from);
    __syncthreads();
    for (int e = threadIdx.x; e < inner * D; e += kBlock) {
      const int j = a.transposed ? e / D : e % inner, i = a.transposed ? e % D : e / inner;
      seen[j * P + i] = a.transposed ? B[(from + j) * D + i] : B[i * D + from + j];
    }
    for (int e = threadIdx.x; e < inner * kRows; e += kBlock)
      rows[e % inner * kPitch + e / inner] = e / inner < count ? a.r[at(e / inner) + from + e % inner] : 0.0f;
    __syncthreads();
    for (int j = 0; j < inner; ++j)
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const float b = lane + c * kWarp < D ? seen[j * P + lane + c * kWarp] : 0.0f;
#pragma unroll
        for (int t = 0; t < kRowsOfWarp; ++t) sum[t][c] += b * rows[j * kPitch + warp * kRowsOfWarp + t];
      }
  }
#pragma unroll
  for (int t = 0; t < kRowsOfWarp; ++t) {
    const int row = warp * kRowsOfWarp + t;
    if (row >= count) break;  // with all lanes
    float squares = 0;
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (const int i = lane + c * kWarp; i < D) {
        if (a.accumulate) sum[t][c] += a.y[at(row) + i];
        a.y.store(at(row) + i, sum[t][c]);
        squares += sum[t][c] * sum[t][c];
      }
    if (!a.weight) continue;
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(D) + a.eps);
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (const int i = lane + c * kWarp; i < D)
        a.normed.store(at(row) + i, sum[t][c] * scale * a.weight[h * D + i]);
  }
}

constexpr int kSide = 64, kOwn = 4;  // a block's tile of dB, and a thread's, both square
constexpr int kTogether = 16;        // rows in shared memory at a time

// Grid (segment, state head, tile of dB). A thread sums its elements over all rows and readers.
__global__ void __launch_bounds__(kBlock)
    boundary_read_grad_kernel(const int64_t* segments, const int32_t* head_state, int64_t N, int64_t R, int D,
                              FloatPointer a, FloatPointer b, float* dstates) {
  __shared__ float of_a[kTogether][kSide], of_b[kTogether][kSide];
  const int64_t begin = segments[2 * blockIdx.x], count = segments[2 * blockIdx.x + 1];
  const int across = (D + kSide - 1) / kSide, first = static_cast<int>(blockIdx.z) / across * kSide,
            second = static_cast<int>(blockIdx.z) % across * kSide;
  const int i = threadIdx.x / (kSide / kOwn) * kOwn, j = threadIdx.x % (kSide / kOwn) * kOwn;
  float sum[kOwn][kOwn] = {};
  for (int64_t h = 0; h < R; ++h) {
    if (head_state[h] != static_cast<int32_t>(blockIdx.y)) continue;
    for (int64_t t = 0; t < count; t += kTogether) {
      __syncthreads();
      for (int e = threadIdx.x; e < kTogether * kSide; e += kBlock) {
        const int row = e / kSide, c = e % kSide;
        const int64_t at = ((begin + t + row) * R + h) * D;
        const bool there = t + row < count;
        of_a[row][c] = there && first + c < D ? a[at + first + c] : 0.0f;
        of_b[row][c] = there && second + c < D ? b[at + second + c] : 0.0f;
      }
      __syncthreads();
#pragma unroll 4  // fully unrolled, ptxas spills registers
      for (int row = 0; row < kTogether; ++row)
#pragma unroll
        for (int x = 0; x < kOwn; ++x)
#pragma unroll
          for (int y = 0; y < kOwn; ++y) sum[x][y] += of_a[row][i + x] * of_b[row][j + y];
    }
  }
  float* const dB = dstates + (int64_t{blockIdx.x} * N + blockIdx.y) * D * D;
  for (int x = 0; x < kOwn; ++x)
    for (int y = 0; y < kOwn; ++y)
      if (first + i + x < D && second + j + y < D) dB[(first + i + x) * D + second + j + y] += sum[x][y];
}

}  // namespace

void boundary_read(const Stream& stream, const BoundaryReadArgs& args) {
  const int64_t R = args.r.dim(1), D = args.r.dim(2);
  const Device device = args.r.device();
  const Tensor table = row_block_table(args.segments, device), heads = upload(args.head_state, device);
  const Reading reading{.states = args.states.f32(),
                        .head_state = heads.data<int32_t>(),
                        .N = args.states.dim(1),
                        .R = R,
                        .D = static_cast<int>(D),
                        .transposed = args.transposed,
                        .accumulate = args.accumulate,
                        .r = float_pointer(args.r),
                        .y = float_pointer(args.y),
                        .weight = float_pointer(args.weight),
                        .normed = float_pointer(args.normed),
                        .eps = args.eps};
  const auto start = [&]<int kChannels>() {
    launch(stream, "boundary_read", boundary_read_kernel<kChannels>, dim3(table.numel() / 3, R), dim3(kBlock),
           shared_bytes(D), reading, table.data<int32_t>());
  };
  if (D > 8 * kWarp) fail("boundary_read: {} channels a head, expected at most {}", D, 8 * kWarp);
  if (D > 4 * kWarp) return start.template operator()<8>();
  if (D > 2 * kWarp) return start.template operator()<4>();
  start.template operator()<2>();
}

void boundary_read_grad(const Stream& stream, const BoundaryReadGradArgs& args) {
  const int64_t R = args.a.dim(1), D = args.a.dim(2), N = args.dstates.dim(1);
  std::vector<int64_t> flat;
  for (const Wkv7Segment& s : args.segments) flat.insert(flat.end(), {s.begin, s.count});
  const Tensor table = upload(flat, args.a.device()), heads = upload(args.head_state, args.a.device());
  const unsigned across = blocks_for(D, kSide);
  launch(stream, "boundary_read_grad", boundary_read_grad_kernel,
         dim3(args.segments.size(), N, across * across), dim3(kBlock), 0, table.data<int64_t>(),
         heads.data<int32_t>(), N, R, static_cast<int>(D), float_pointer(args.a), float_pointer(args.b),
         args.dstates.f32());
}

}  // namespace wuneng::kernels::cuda

// One thread block for each (rows of a segment, reader) or (segment, state head).
#include "kernels/boundary.h"
#include "kernels/cuda/common/upload.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int64_t kRows = 64;  // of a segment, for each thread block

struct RowBlock {  // up to kRows rows of one segment
  int32_t segment, begin, count;
};

std::vector<RowBlock> row_blocks_of(const std::vector<Wkv7Segment>& segments) {
  std::vector<RowBlock> row_blocks;
  for (size_t s = 0; s < segments.size(); ++s)
    for (int64_t at = 0; at < segments[s].count; at += kRows)
      row_blocks.push_back({static_cast<int32_t>(s), static_cast<int32_t>(segments[s].begin + at),
                            static_cast<int32_t>(std::min(kRows, segments[s].count - at))});
  return row_blocks;
}

Tensor upload_row_blocks(const std::vector<RowBlock>& row_blocks, Device device) {
  std::vector<int32_t> flat;
  for (const RowBlock& p : row_blocks) flat.insert(flat.end(), {p.segment, p.begin, p.count});
  return upload(flat, device);
}

// Grid (row block, reader), one thread per channel of y.
__global__ void boundary_read_kernel(const int32_t* row_blocks, const int32_t* head_state,
                                     const float* states, int64_t N, int64_t R, int64_t D, bool transposed,
                                     bool accumulate, FloatPointer r, FloatPointer y) {
  float* row = shared_memory<float>();  // [D]: r of one row
  const int32_t* block = row_blocks + 3 * blockIdx.x;
  const int64_t h = blockIdx.y, i = threadIdx.x;
  const float* B = states + (int64_t{block[0]} * N + head_state[h]) * D * D;
  for (int32_t t = block[1]; t < block[1] + block[2]; ++t) {
    const int64_t at = (t * R + h) * D;
    __syncthreads();
    if (i < D) row[i] = r[at + i];
    __syncthreads();
    if (i >= D) continue;
    float sum = accumulate ? y[at + i] : 0.0f;
    for (int64_t j = 0; j < D; ++j) sum += (transposed ? B[j * D + i] : B[i * D + j]) * row[j];
    y.store(at + i, sum);
  }
}

// Grid (segment, state head): each thread computes some elements of dB, over all rows.
__global__ void boundary_read_grad_kernel(const int64_t* segments, const int32_t* head_state, int64_t N,
                                          int64_t R, int64_t D, FloatPointer a, FloatPointer b,
                                          float* dstates) {
  const int64_t begin = segments[2 * blockIdx.x], count = segments[2 * blockIdx.x + 1];
  float* dB = dstates + (int64_t{blockIdx.x} * N + blockIdx.y) * D * D;
  for (int64_t e = threadIdx.x; e < D * D; e += blockDim.x) {
    float sum = 0;
    for (int64_t h = 0; h < R; ++h) {
      if (head_state[h] != static_cast<int32_t>(blockIdx.y)) continue;
      for (int64_t t = begin; t < begin + count; ++t)
        sum += a[(t * R + h) * D + e / D] * b[(t * R + h) * D + e % D];
    }
    dB[e] += sum;
  }
}

}  // namespace

void boundary_read(const Stream& stream, const BoundaryReadArgs& args) {
  const int64_t R = args.r.dim(1), D = args.r.dim(2), N = args.states.dim(1);
  const std::vector<RowBlock> row_blocks = row_blocks_of(args.segments);
  const Tensor table = upload_row_blocks(row_blocks, args.r.device()),
               heads = upload(args.head_state, args.r.device());
  launch(stream, "boundary_read", boundary_read_kernel, dim3(row_blocks.size(), R),
         dim3(blocks_for(D, kWarp) * kWarp), D * sizeof(float), table.data<int32_t>(), heads.data<int32_t>(),
         args.states.f32(), N, R, D, args.transposed, args.accumulate, float_pointer(args.r),
         float_pointer(args.y));
}

void boundary_read_grad(const Stream& stream, const BoundaryReadGradArgs& args) {
  const int64_t R = args.a.dim(1), D = args.a.dim(2), N = args.dstates.dim(1);
  std::vector<int64_t> flat;
  for (const Wkv7Segment& s : args.segments) flat.insert(flat.end(), {s.begin, s.count});
  const Tensor table = upload(flat, args.a.device()), heads = upload(args.head_state, args.a.device());
  launch(stream, "boundary_read_grad", boundary_read_grad_kernel, dim3(args.segments.size(), N), dim3(kBlock),
         0, table.data<int64_t>(), heads.data<int32_t>(), N, R, D, float_pointer(args.a),
         float_pointer(args.b), args.dstates.f32());
}

}  // namespace wuneng::kernels::cuda

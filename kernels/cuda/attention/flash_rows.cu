// Preprocessing of the attention backward: RowStats of each query row.
#include "kernels/cuda/attention/flash_problem.h"

namespace wuneng::kernels::cuda::flash {
namespace {

// rows [H, pitch] from out, dout [Tq, H, D] and lse [Tq, H]. D / 8 threads per row.
template <int D>
__global__ void __launch_bounds__(kBlock)
    row_stats_kernel(int64_t Tq, int H, int64_t pitch, const bf16* out, const bf16* dout, const float* lse,
                     RowStats* rows) {
  constexpr int kLanes = D / 8;
  struct alignas(16) Eight {
    unsigned pair[4];
  };
  const int64_t i = (int64_t{blockIdx.x} * kBlock + threadIdx.x) / kLanes;
  const int lane = threadIdx.x % kLanes;
  float delta = 0;
  if (i < Tq * H) {
    const Eight a = reinterpret_cast<const Eight*>(out + i * D)[lane],
                b = reinterpret_cast<const Eight*>(dout + i * D)[lane];
#pragma unroll
    for (int n = 0; n < 4; ++n)
      delta += low_of(a.pair[n]) * low_of(b.pair[n]) + high_of(a.pair[n]) * high_of(b.pair[n]);
  }
#pragma unroll
  for (int other = kLanes / 2; other > 0; other /= 2) delta += __shfl_xor_sync(~0u, delta, other);
  if (i < Tq * H && lane == 0) rows[i % H * pitch + i / H] = {lse[i] * kLog2e, delta};
}

template <int D>
Tensor numbers_of(const Stream& stream, const AttentionBackwardArgs& args, int64_t pitch) {
  const int64_t Tq = args.q.dim(0);
  const int H = static_cast<int>(args.q.dim(1));
  const Tensor rows = Tensor::empty({H, pitch, 2}, DType::f32, args.q.device());
  launch(stream, "attention row stats", row_stats_kernel<D>, dim3(blocks_for(Tq * H * (D / 8), kBlock)),
         dim3(kBlock), 0, Tq, H, pitch, args.out.data<bf16>(), args.dout.data<bf16>(), args.lse.f32(),
         static_cast<RowStats*>(rows.raw()));
  return rows;
}

}  // namespace

Tensor row_stats(const Stream& stream, const AttentionBackwardArgs& args, int64_t row_pitch) {
  return args.q.dim(2) == 64 ? numbers_of<64>(stream, args, row_pitch)
                             : numbers_of<128>(stream, args, row_pitch);
}

}  // namespace wuneng::kernels::cuda::flash

// The recurrence token by token: for segments of few tokens, and the direct form that tests compare the
// chunked kernels with. The rows of a state do not depend on each other: a few lanes hold a row in registers,
// so that the rows of one state are spread over several thread blocks, and a state is read and written once.
#include "kernels/cuda/wkv7/wkv7_chunk.h"
#include "kernels/cuda/wkv7/wkv7_tables.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kThreads = 128;
constexpr int kElements = 4;  // of a row, of a lane

// This lane's elements of x [D]; those beyond it are zero.
template <class T>
__device__ FloatVector<kElements> elements(const T* x, int c, int D) {
  FloatVector<kElements> out;
  if (D % kElements == 0) return c < D ? load<kElements>(x + c) : out;
#pragma unroll
  for (int e = 0; e < kElements; ++e)
    if (c + e < D) out.x[e] = as_float(x[c + e]);
  return out;
}

__device__ float dot(const FloatVector<kElements>& a, const FloatVector<kElements>& b, int lanes) {
  float sum = sum_of(a * b);
  for (int mask = lanes / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  return sum;
}

// Grid (segment, state head, rows of the state). lanes: of a row, a power of two. Rows from D on are zero and
// take part in the exchanges alone.
template <class T>
__global__ void __launch_bounds__(kThreads)
    recurrent_kernel(Inputs<T> in, int lanes, const int64_t* segments, const int32_t* readers, int64_t R,
                     const T* r, T* y, const float* initial, float* final) {
  const int D = in.D, c = static_cast<int>(threadIdx.x) % lanes * kElements,
            i = static_cast<int>(blockIdx.z * (kThreads / lanes) + threadIdx.x / lanes);
  const bool writes = i < D && c == 0;
  const int64_t n = blockIdx.y, begin = segments[4 * blockIdx.x], count = segments[4 * blockIdx.x + 1],
                place = ((int64_t{blockIdx.x} * in.N + n) * D + i) * D;
  FloatVector<kElements> row;
  if (initial && i < D) row = elements(initial + place, c, D);
  for (int64_t t = begin; t < begin + count; ++t) {
    const int64_t at = (t * in.N + n) * D;
    const auto w = map(elements(in.log_w + at, c, D), [](float x) { return expf(x); }),
               k = elements(in.k + at, c, D), kappa = elements(in.kappa + at, c, D),
               b = kappa * elements(in.rate + at, c, D);
    const float removed = -dot(row, kappa, lanes), value = i < D ? as_float(in.v[at + i]) : 0.0f;
    row = row * w + removed * b + value * k;
    for (int32_t h = readers[2 * n]; h < readers[2 * n + 1]; ++h) {
      const float sum = dot(row, elements(r + (t * R + h) * D, c, D), lanes);
      if (writes) assign(y[(t * R + h) * D + i], sum);
    }
  }
  if (!final || i >= D) return;
#pragma unroll
  for (int e = 0; e < kElements; ++e)
    if (c + e < D) final[place + c + e] = row.x[e];
}

}  // namespace

void wkv7_recurrent(const Stream& stream, const Wkv7RecurrentArgs& args) {
  with_width(args.in, [&]<class T, int W>() {
    const Inputs in = inputs_of<T>(args.in);
    const Device device = args.in.k.device();
    const Tensor segments = segment_table(args.in.segments, device),
                 readers = reader_table(args.head_state, in.N, device);
    constexpr int lanes = W / kElements;
    launch(stream, "wkv7_recurrent", recurrent_kernel<T>,
           dim3(args.in.segments.size(), in.N, blocks_for(in.D, kThreads / lanes)), dim3(kThreads), 0, in,
           lanes, segments.data<int64_t>(), readers.data<int32_t>(), args.r.dim(1), args.r.data<T>(),
           args.y.data<T>(), f32_or_null(args.initial), f32_or_null(args.final));
  });
}

}  // namespace wuneng::kernels::cuda

// The recurrence token by token: one block per chain, one thread per row of the state. The direct form that
// tests compare the chunked kernels with, and the form for few tokens; not optimised.
#include "kernels/cuda/wkv7/wkv7_chunk.h"
#include "kernels/cuda/wkv7/wkv7_tables.h"

namespace wuneng::kernels::cuda {
namespace {

// Grid (segment, state head); shared memory: the state [D, D + 1] and five rows of D for the token.
template <class T>
__global__ void recurrent_kernel(Inputs<T> in, const int64_t* segments, const int32_t* readers, int64_t R,
                                 const T* r, T* y, const float* initial, float* final) {
  const int D = in.D, P = D + 1, i = threadIdx.x;
  float *state = wuneng::cuda::shared_memory<float>(), *w = state + D * P, *k = w + D, *a = k + D, *b = a + D,
        *x = b + D;
  const int64_t n = blockIdx.y, begin = segments[4 * blockIdx.x], count = segments[4 * blockIdx.x + 1],
                place = (int64_t(blockIdx.x) * in.N + n) * D * D;
  // Rows of the state by all threads together, so that they are read in one piece.
  for (int j = i; j < D * D; j += blockDim.x) state[j / D * P + j % D] = initial ? initial[place + j] : 0.0f;
  for (int64_t t = begin; t < begin + count; ++t) {
    const int64_t at = (t * in.N + n) * D + i;
    __syncthreads();
    if (i < D) {
      w[i] = expf(as_float(in.log_w[at])), k[i] = as_float(in.k[at]);
      a[i] = as_float(in.kappa[at]), b[i] = a[i] * as_float(in.rate[at]);
    }
    __syncthreads();
    if (i < D) {
      float removed = 0;
      for (int j = 0; j < D; ++j) removed -= state[i * P + j] * a[j];
      for (int j = 0; j < D; ++j)
        state[i * P + j] = state[i * P + j] * w[j] + removed * b[j] + as_float(in.v[at]) * k[j];
    }
    for (int32_t h = readers[2 * n]; h < readers[2 * n + 1]; ++h) {
      const int64_t row = (t * R + h) * D + i;
      __syncthreads();
      if (i < D) x[i] = as_float(r[row]);
      __syncthreads();
      float sum = 0;
      for (int j = 0; j < D && i < D; ++j) sum += state[i * P + j] * x[j];
      if (i < D) assign(y[row], sum);
    }
  }
  if (!final) return;
  __syncthreads();
  for (int j = i; j < D * D; j += blockDim.x) final[place + j] = state[j / D * P + j % D];
}

}  // namespace

void wkv7_recurrent(const Stream& stream, const Wkv7RecurrentArgs& args) {
  with_width(args.in, [&]<class T, int W>() {
    const Inputs in = inputs_of<T>(args.in);
    const Device device = args.in.k.device();
    const Tensor segments = segment_table(args.in.segments, device),
                 readers = reader_table(args.head_state, in.N, device);
    wuneng::cuda::launch(stream, "wkv7_recurrent", recurrent_kernel<T>, dim3(args.in.segments.size(), in.N),
                         dim3(W), (in.D * (in.D + 1) + 5 * in.D) * sizeof(float), in,
                         segments.data<int64_t>(), readers.data<int32_t>(), args.r.dim(1), args.r.data<T>(),
                         args.y.data<T>(), args.initial.defined() ? args.initial.f32() : nullptr,
                         args.final.defined() ? args.final.f32() : nullptr);
  });
}

}  // namespace wuneng::kernels::cuda

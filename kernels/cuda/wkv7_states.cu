// The recurrence by chunks (formulas in kernels/cpu/wkv7_states.cpp): a block a chain, the state in shared
// memory.
#include "kernels/cuda/wkv7_chunk.h"

namespace wuneng::kernels::cuda {
namespace {

using wuneng::cuda::optional;

// Grid (segment, state head).
__global__ void __launch_bounds__(kThreads)
    states_kernel(Inputs in, const int64_t* segments, const float* initial, float* chunk_states,
                  Floats removed, float* final) {
  Chunk c;
  const int D = in.D;
  float* state = c.place(wuneng::cuda::shared_memory<float>(), D);
  const int P = c.P;
  float *pairs = state + D * P, *solve = pairs + kC * 2 * kC, *p = solve + kC * kC;  // p [16, P]
  const int64_t n = blockIdx.y, square = int64_t{D} * D, chain = blockIdx.x * in.N + n;
  const int64_t begin = segments[3 * blockIdx.x], count = segments[3 * blockIdx.x + 1],
                first_chunk = segments[3 * blockIdx.x + 2];
  load_state(initial ? initial + chain * square : nullptr, D, state);
  for (int64_t at = 0; at < count; at += kC) {
    store_state(state, D, chunk_states + ((first_chunk + at / kC) * in.N + n) * square);
    c.load(in, begin + at, static_cast<int>(min(int64_t{kC}, count - at)), n);
    multiply(kC, 2 * kC, D, rows_of(c.A, P), columns_of(c.KB, P), pairs, 2 * kC);
    keep_causal(pairs, true);
    unit_inverse(pairs + kC, 2 * kC, solve);
    multiply(kC, D, D, rows_of(c.A, P), columns_of(state, P), p, P);
    multiply<true>(kC, D, kC, rows_of(pairs, 2 * kC), rows_of(c.V(), P), p, P);
    multiply(kC, D, kC, rows_of(solve, kC), rows_of(p, P), c.U(), P);
    c.store_rows(c.U(), removed, in.N, n);
    c.load_rows(removed, in.N, n, c.U());  // as rounded
    multiply<true>(D, D, 2 * kC, columns_of(c.VU, P), rows_of(c.KB, P), state, P);
    for (int e = threadIdx.x; e < D * D; e += kThreads) state[e / D * P + e % D] *= c.total()[e % D];
    __syncthreads();
  }
  store_state(state, D, final ? final + chain * square : nullptr);
}

}  // namespace

void wkv7_states(const Stream& stream, const Wkv7StatesArgs& args) {
  const Inputs in = inputs_of(args.in);
  const Tensor segments = segment_table(args.in.segments, args.in.k.device());
  const size_t P = pitch_of(in.D), count = (Chunk::kRows + in.D + kC) * P + kC * 2 * kC + kC * kC;
  wuneng::cuda::launch(stream, "wkv7_states", states_kernel, dim3(args.in.segments.size(), in.N),
                       dim3(kThreads), count * sizeof(float), in, segments.data<int64_t>(),
                       optional(args.initial), args.chunk_states.f32(), floats(args.removed),
                       optional(args.final));
}

}  // namespace wuneng::kernels::cuda

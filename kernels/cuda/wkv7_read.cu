// The two readings (formulas in kernels/cpu/wkv7_read.cpp): a block a chunk and state head.
#include "kernels/cuda/wkv7_chunk.h"

namespace wuneng::kernels::cuda {
namespace {

// Grid (chunk, state head).
__global__ void __launch_bounds__(kThreads)
    read_kernel(Inputs in, const int64_t* chunks, const int32_t* readers, bool transposed,
                const float* chunk_states, Floats removed, int64_t R, Floats r, Floats y) {
  const int64_t n = blockIdx.y;
  const int32_t first = readers[2 * n], last = readers[2 * n + 1];
  if (first == last) return;
  Chunk c;
  const int D = in.D;
  float* state = c.place(wuneng::cuda::shared_memory<float>(), D);
  const int P = c.P;
  float *x = state + D * P, *out = x + kC * P, *pairs = out + kC * P;
  c.load(in, chunks[2 * blockIdx.x], static_cast<int>(chunks[2 * blockIdx.x + 1]), n);
  c.load_rows(removed, in.N, n, c.U());
  load_state(chunk_states + (blockIdx.x * in.N + n) * D * D, D, state);
  const float *seen = transposed ? c.VU : c.KB, *given = transposed ? c.KB : c.VU;
  for (int32_t h = first; h < last; ++h) {
    c.load_rows(r, R, h, x, !transposed);
    multiply(kC, 2 * kC, D, rows_of(x, P), columns_of(seen, P), pairs, 2 * kC);
    keep_causal(pairs, false);
    multiply(kC, D, D, rows_of(x, P), transposed ? rows_of(state, P) : columns_of(state, P), out, P);
    multiply<true>(kC, D, 2 * kC, rows_of(pairs, 2 * kC), rows_of(given, P), out, P);
    c.store_rows(out, y, R, h, transposed);
  }
}

void read(const Stream& stream, const Wkv7ReadArgs& args, bool transposed) {
  const Inputs in = inputs_of(args.in);
  const Device device = args.in.k.device();
  const Tensor chunks = chunk_table(args.in.segments, device),
               readers = reader_table(args.head_state, in.N, device);
  const size_t P = pitch_of(in.D), count = (Chunk::kRows + in.D + 2 * kC) * P + kC * 2 * kC;
  wuneng::cuda::launch(stream, transposed ? "wkv7_read_transposed" : "wkv7_read", read_kernel,
                       dim3(wkv7_chunk_count(args.in.segments), in.N), dim3(kThreads), count * sizeof(float),
                       in, chunks.data<int64_t>(), readers.data<int32_t>(), transposed,
                       args.chunk_states.f32(), floats(args.removed), args.r.dim(1), floats(args.r),
                       floats(args.y));
}

}  // namespace

void wkv7_read(const Stream& stream, const Wkv7ReadArgs& args) { read(stream, args, false); }
void wkv7_read_transposed(const Stream& stream, const Wkv7ReadArgs& args) { read(stream, args, true); }

}  // namespace wuneng::kernels::cuda

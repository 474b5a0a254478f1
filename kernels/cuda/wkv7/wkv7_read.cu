// The two readings (formulas in kernels/cpu/wkv7_read.cpp). A block processes the chunks from one stored
// state to the next for one state head. With the rows of S in registers, or its columns for the transposed
// reading, both are y^T = M x^T + own^T tril(x other^T)^T, where (own, other) are (V over U, K over B), for
// the transposed reading the reverse.
#include "kernels/cuda/wkv7/wkv7_state.h"
#include "kernels/cuda/wkv7/wkv7_tables.h"

namespace wuneng::kernels::cuda {
namespace {

template <class T, int W>
struct Shared {
  static constexpr int P = tile_pitch(kTile);
  Chunk<T, W> c;
  alignas(16) T x[kC * Chunk<T, W>::P];  // [16, P], of one reader
  alignas(16) T pairs[2][kC * P];        // [16, P]: tril(x K^T), tril(x B^T), or with V, U
};

// Grid (stored state, state head).
template <class T, int W, bool kTransposed>
__global__ void __launch_bounds__(2 * W, sizeof(T) == 2 ? 2 : 1)
    read_kernel(Inputs<T> in, const int64_t* groups, const int32_t* readers, const float* chunk_states,
                const T* removed, int64_t R, const T* r, T* y) {
  const int64_t n = blockIdx.y, begin = groups[2 * blockIdx.x];
  const int32_t first = readers[2 * n], last = readers[2 * n + 1];
  if (first == last) return;
  auto& s = *wuneng::cuda::shared_memory<Shared<T, W>>();
  auto& c = s.c;
  constexpr int P = Chunk<T, W>::P, kSmall = Shared<T, W>::P;
  const int warp = threadIdx.x / wuneng::cuda::kWarp, D = in.D;
  int own = warp * kTile;
  const int count = static_cast<int>(groups[2 * blockIdx.x + 1]);
  State<T, W, kTransposed> state;
  state.load(chunk_states + (blockIdx.x * in.N + n) * D * D, D, own);
  for (int at = 0; at < count; at += kC) {
    const int64_t row = begin + at;
    const int C = min(kC, count - at);
    own = opaque(own);
    c.load(in, row, C, n, removed);
    if (at + kC < count) c.prefetch(in, row + kC, min(kC, count - at - kC), n, removed);
    const T *given = (kTransposed ? c.KB : c.VU) + own, *seen = kTransposed ? c.VU : c.KB;
    for (int32_t h = first; h < last; ++h) {
      c.load_rows(r, row, C, R, h, D, s.x, !kTransposed);
      __syncthreads();
      for (int half = warp; half < 2; half += W / kTile)
        store_tile(s.pairs[half], kSmall,
                   fragment<T>(causal(product_of_rows<T, W>(s.x, seen + half * kC * P), false)));
      Tile out{};  // [own channel, t]
#pragma unroll
      for (int b = 0; b < W / kTile; ++b)
        add_product(out, fragment<T>(state.m[b]), load_tile(s.x + b * kTile, P));
      __syncthreads();
      for (int half = 0; half < 2; ++half)
        add_product(out, load_tile<true>(given + half * kC * P, P), load_tile(s.pairs[half], kSmall));
      if (kTransposed)
#pragma unroll
        for (int i = 0; i < 8; ++i) out.x[i] *= c.grow[(tile_column(i) + 1) * W + own + tile_row(i)];
      TileRows<T>(row, C, R, h, D, own).store(y, fragment<T>(out));
    }
    if (at + kC < count) state.advance(c, own);
    __syncthreads();
  }
}

void read(const Stream& stream, const Wkv7ReadArgs& args, bool transposed) {
  with_width(args.in, [&]<class T, int W>() {
    const Inputs in = inputs_of<T>(args.in);
    const Device device = args.in.k.device();
    const Tensor groups = group_table(args.in.segments, device),
                 readers = reader_table(args.head_state, in.N, device);
    const auto start = [&](const char* name, auto kernel) {
      wuneng::cuda::launch(stream, name, kernel, dim3(wkv7_kept_count(args.in.segments, device.kind), in.N),
                           dim3(2 * W), sizeof(Shared<T, W>), in, groups.data<int64_t>(),
                           readers.data<int32_t>(), args.chunk_states.f32(), args.removed.data<T>(),
                           args.r.dim(1), args.r.data<T>(), args.y.data<T>());
    };
    transposed ? start("wkv7_read_transposed", read_kernel<T, W, true>)
               : start("wkv7_read", read_kernel<T, W, false>);
  });
}

}  // namespace

void wkv7_read(const Stream& stream, const Wkv7ReadArgs& args) { read(stream, args, false); }
void wkv7_read_transposed(const Stream& stream, const Wkv7ReadArgs& args) { read(stream, args, true); }

}  // namespace wuneng::kernels::cuda

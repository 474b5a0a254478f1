// The recurrence by chunks (formulas in kernels/cpu/wkv7_states.cpp). Rows of S, its value side, do not meet
// in it: a warp takes 16 of them along the chain, with the state in its registers, and P and U transposed, as
// the products leave them. Only what depends on the keys alone is the whole block's.
#include "kernels/cuda/wkv7_state.h"
#include "kernels/cuda/wkv7_tables.h"

namespace wuneng::kernels::cuda {
namespace {

template <class T, int W>
struct Shared {
  static constexpr int P = tile_pitch(kTile);
  Chunk<T, W> c;
  alignas(16) T A_ak[kC * P], inverse[kC * P];  // [16, P]
};

// Grid (segment, state head, share of the values); a warp for 16 values of a share.
template <class T, int W>
__global__ void __launch_bounds__(2 * W, sizeof(T) == 2 ? 2 : 1)
    states_kernel(Inputs<T> in, const int64_t* segments, const float* initial, float* chunk_states,
                  T* removed, float* final) {
  auto& s = *wuneng::cuda::shared_memory<Shared<T, W>>();
  auto& c = s.c;
  constexpr int P = Chunk<T, W>::P, kSmall = Shared<T, W>::P;
  const int warp = threadIdx.x / wuneng::cuda::kWarp, warps = blockDim.x / wuneng::cuda::kWarp;
  const int D = in.D;
  int own = (blockIdx.z * warps + warp) * kTile;
  const int64_t n = blockIdx.y, square = int64_t{D} * D, chain = blockIdx.x * in.N + n;
  const int64_t begin = segments[3 * blockIdx.x], count = segments[3 * blockIdx.x + 1],
                first_kept = segments[3 * blockIdx.x + 2];
  State<T, W, false> state;
  state.load(initial ? initial + chain * square : nullptr, D, own);
  for (int64_t at = 0; at < count; at += kC) {
    const int C = static_cast<int>(min(int64_t{kC}, count - at));
    own = opaque(own);
    if (at % kKept == 0) state.store(chunk_states + ((first_kept + at / kKept) * in.N + n) * square, D, own);
    c.load(in, begin + at, C, n, nullptr);
    if (at + kC < count)
      c.prefetch(in, begin + at + kC, static_cast<int>(min(int64_t{kC}, count - at - kC)), n, nullptr);
    __syncthreads();
    if (warp == 0) store_tile(s.A_ak, kSmall, factor<T>(causal(product_of_rows<T, W>(c.A, c.K()), true)));
    if (warp == warps - 1) store_tile(s.inverse, kSmall, factor<T>(removal_inverse(c)));
    Tile p{}, u{};  // P^T, U^T [value, t]
#pragma unroll
    for (int b = 0; b < W / kTile; ++b) add_product(p, factor<T>(state.m[b]), load_tile(c.A + b * kTile, P));
    __syncthreads();
    const Factor<T> V = load_tile<true>(c.V() + own, P);
    add_product(p, V, load_tile(s.A_ak, kSmall));
    add_exact(u, p, load_tile(s.inverse, kSmall));
    const Factor<T> U = factor<T>(u);  // as rounded from here on
    store_rows(removed, begin + at, C, in.N, n, D, own,
               [rounded = values(U)](int i) { return rounded.x[i]; });
    state.advance(c, own, V, U);
    __syncthreads();
  }
  state.store(final ? final + chain * square : nullptr, D, own);
}

}  // namespace

void wkv7_states(const Stream& stream, const Wkv7StatesArgs& args) {
  with_width(args.in, [&]<class T, int W>() {
    const Inputs in = inputs_of<T>(args.in);
    const Tensor segments = segment_table(args.in.segments, args.in.k.device());
    // Where there are few chains, several blocks share the values of one: each finds A, K and B anew.
    const int64_t chains = static_cast<int64_t>(args.in.segments.size()) * in.N;
    const int shares = chains >= 128 || W <= 32 ? 1 : 2;
    wuneng::cuda::launch(stream, "wkv7_states", states_kernel<T, W>,
                         dim3(args.in.segments.size(), in.N, shares), dim3(2 * W / shares),
                         sizeof(Shared<T, W>), in, segments.data<int64_t>(),
                         wuneng::cuda::optional(args.initial), args.chunk_states.f32(),
                         args.removed.data<T>(), wuneng::cuda::optional(args.final));
  });
}

}  // namespace wuneng::kernels::cuda

// The recurrence: the forward direction of wkv7_chain.h. Limits and counts: docs/gpu.md.
#include "kernels/cuda/wkv7/wkv7_chain.h"
#include "kernels/cuda/wkv7/wkv7_tables.h"

namespace wuneng::kernels::cuda {
namespace {

template <class T>
struct Forwards {
  static constexpr bool kBackward = false, kPairs = true;
  const T *v, *k;
  int64_t N;
  T* out;        // removed [T, N, D]
  float* final;  // [segments, N, D, D]; null: not computed

  __device__ int pairs(int) const { return 1; }
  __device__ ChainPair<T> pair(int n, int) const { return {v, k, N, n}; }
  __device__ void removed(const Fragment<T>& U, int64_t row, int C, int n, int D, int value) const {
    TileRows<T>(row, C, N, n, D, value).store(out, U);
  }
  template <class S>
  __device__ void finish(S& state, int64_t chain, int D, int value) const {
    state.store(final ? final + chain * D * D : nullptr, D, value);
  }
};

}  // namespace

void wkv7_states(const Stream& stream, const Wkv7StatesArgs& args) {
  with_width(args.in, [&]<class T, int W>() {
    using wuneng::cuda::f32_or_null;
    const Inputs in = inputs_of<T>(args.in);
    const Tensor segments = segment_table(args.in.segments, args.in.k.device());
    launch_chains<T, W>(
        stream, "wkv7_states",
        Chains<T>{in, segments.data<int64_t>(), f32_or_null(args.initial), args.chunk_states.f32(), nullptr},
        static_cast<int64_t>(args.in.segments.size()),
        Forwards<T>{in.v, in.k, in.N, args.removed.data<T>(), f32_or_null(args.final)});
  });
}

}  // namespace wuneng::kernels::cuda

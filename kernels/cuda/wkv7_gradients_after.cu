// The state's gradient along its chains (see wkv7_pieces.h).
#include "kernels/cuda/wkv7_chain.h"
#include "kernels/cuda/wkv7_pieces.h"
#include "kernels/cuda/wkv7_tables.h"

namespace wuneng::kernels::cuda {
namespace {

template <class T>
struct Backwards {
  static constexpr bool kBackward = true;
  Readings<T> readings;
  const int32_t* readers;  // [N, 2]

  __device__ int each(int n) const { return readers[2 * n + 1] - readers[2 * n]; }
  __device__ int pairs(int n) const { return max(1, each(n) * readings.count); }
  __device__ ChainPair<T> pair(int n, int i) const {
    const int of_one = each(n);
    if (of_one * readings.count == 0) return {nullptr, nullptr, 0, 0};
    const Reading<T>& reading = i < of_one ? readings.first : readings.second;
    return {reading.dy, reading.r, readings.R, readers[2 * n] + i % of_one};
  }
  __device__ void removed(const Factor<T>&, int64_t, int, int, int, int) const {}
  template <class S>
  __device__ void finish(S&, int64_t, int, int) const {}
};

}  // namespace

Tensor gradients_after(const Stream& stream, const Wkv7BackwardArgs& args, const Pieces& pieces) {
  Tensor after;
  with_width(args.in, [&]<class T, int W>() {
    const Inputs in = inputs_of<T>(args.in);
    const Device device = args.in.k.device();
    const Tensor readers = reader_table(args.head_state, in.N, device);
    after = Tensor::empty({pieces.count, in.N, in.D, in.D}, DType::f32, device);
    launch_chains<T, W>(
        stream, "wkv7_gradients_after",
        Chains<T>{in, pieces.chains.data<int64_t>(), wuneng::cuda::optional(args.dfinal), after.f32()},
        static_cast<int64_t>(args.in.segments.size()),
        Backwards<T>{readings_of<T>(args), readers.data<int32_t>()});
  });
  return after;
}

}  // namespace wuneng::kernels::cuda

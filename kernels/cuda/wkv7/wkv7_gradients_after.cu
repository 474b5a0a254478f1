// The gradient of the state after each piece (wkv7_pieces.h). It is linear in the contributions of the
// readers: if a state head has several, their contributions are computed for all pieces in parallel, and only
// the gradient from outside the piece is propagated along the chain, one iteration per chunk for any number
// of readings.
#include "kernels/cuda/wkv7/wkv7_chain.h"
#include "kernels/cuda/wkv7/wkv7_pieces.h"
#include "kernels/cuda/wkv7/wkv7_tables.h"

namespace wuneng::kernels::cuda {
namespace {

template <class T>
struct WithReadings {
  static constexpr bool kBackward = true, kPairs = true;
  Readings<T> readings;
  const int32_t* readers;  // [N, 2]

  __device__ int each(int n) const { return readers[2 * n + 1] - readers[2 * n]; }
  __device__ int pairs(int n) const { return max(1, each(n) * readings.count); }
  __device__ ChainPair<T> pair(int n, int i) const {
    const int of_one = each(n);
    if (of_one * readings.count == 0) return {nullptr, nullptr, 0, 0};
    const bool of_first = i < of_one;
    return {of_first ? readings.first.dy : readings.second.dy,
            of_first ? readings.first.r : readings.second.r, readings.R, readers[2 * n] + i % of_one};
  }
  __device__ void removed(const Fragment<T>&, int64_t, int, int, int, int) const {}
  template <class S>
  __device__ void finish(S&, int64_t, int, int) const {}
};

template <class T>
struct WithoutReadings {
  static constexpr bool kBackward = true, kPairs = false;

  __device__ int pairs(int) const { return 1; }
  __device__ ChainPair<T> pair(int, int) const { return {nullptr, nullptr, 0, 0}; }
  __device__ void removed(const Fragment<T>&, int64_t, int, int, int, int) const {}
  template <class S>
  __device__ void finish(S&, int64_t, int, int) const {}
};

// The largest number of (reader, reading) pairs of a state head.
int64_t most_pairs(const Wkv7BackwardArgs& args) {
  std::vector<int64_t> readers(args.in.k.dim(1));
  for (const int n : args.head_state) ++readers[n];
  return *std::max_element(readers.begin(), readers.end()) * static_cast<int64_t>(args.readings.size());
}

}  // namespace

Tensor gradients_after(const Stream& stream, const Wkv7BackwardArgs& args, const Pieces& pieces) {
  Tensor after;
  with_width(args.in, [&]<class T, int W>() {
    const Inputs in = inputs_of<T>(args.in);
    const Device device = args.in.k.device();
    const int64_t segments = static_cast<int64_t>(args.in.segments.size());
    const Tensor readers = reader_table(args.head_state, in.N, device);
    const WithReadings<T> readings{readings_of<T>(args), readers.data<int32_t>()};
    const float* const start = wuneng::cuda::f32_or_null(args.dfinal);
    const auto kept = [&] { return Tensor::empty({pieces.count, in.N, in.D, in.D}, DType::f32, device); };
    const char* const name = "wkv7_gradients_after";
    after = kept();
    if (most_pairs(args) <= 1)
      return launch_chains<T, W>(stream, name,
                                 Chains<T>{in, pieces.chains.data<int64_t>(), start, after.f32(), nullptr},
                                 segments, readings);
    const Tensor own = kept();
    launch_chains<T, W>(stream, name,
                        Chains<T>{in, pieces.later.data<int64_t>(), nullptr, own.f32(), nullptr},
                        pieces.count - segments, readings);
    launch_chains<T, W>(stream, name,
                        Chains<T>{in, pieces.chains.data<int64_t>(), start, after.f32(), own.f32()}, segments,
                        WithoutReadings<T>{});
  });
  return after;
}

}  // namespace wuneng::kernels::cuda

// Rows of activations [T, heads, D] in global memory, two channels an access, and as tiles [channel, t] in a
// warp's registers.
#pragma once
#include "kernels/cuda/common/tile.h"

namespace wuneng::kernels::cuda {

// x, though the compiler cannot know it: what follows from it is computed again for each chunk, where it
// would else lie in registers along the whole chain, beside the state.
__device__ inline int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Two neighbouring channels, one access.
template <class T>
struct Two;
template <>
struct Two<bf16> {
  unsigned both = 0;
  Two() = default;
  __device__ Two(float first, float second) : both(pack(first, second)) {}
  __device__ static Two from(const bf16* x) {
    Two two;
    two.both = *reinterpret_cast<const unsigned*>(x);
    return two;
  }
  __device__ void to(bf16* x) const { *reinterpret_cast<unsigned*>(x) = both; }
  __device__ float operator[](int i) const { return i ? high_of(both) : low_of(both); }
};
template <>
struct alignas(8) Two<float> {
  float x[2] = {};
  Two() = default;
  __device__ Two(float first, float second) : x{first, second} {}
  __device__ static Two from(const float* x) { return *reinterpret_cast<const Two*>(x); }
  __device__ void to(float* y) const { *reinterpret_cast<Two*>(y) = *this; }
  __device__ float operator[](int i) const { return x[i]; }
};

// Where a tile lies in tensors [T, heads, D]: channels [first, first + 16) of rows [row, row + C) of head h.
// f32 as the lane holds it, bf16 once its matrices are transposed, two channels an access.
template <class T>
class TileRows {
 public:
  __device__ TileRows(int64_t row, int C, int64_t heads, int64_t h, int D, int first)
      : stride_(opaque(static_cast<int>(heads) * D)),
        rows_(C - lane_row()),
        channels_(D - first - lane_channel()),
        at_((row + lane_row()) * stride_ + h * D + first + lane_channel()) {}

  __device__ void store(T* x, const Factor<T>& tile) const {
#pragma unroll
    for (int i = 0; i < kAccesses; ++i)
      if constexpr (kWide) {
        if (has(i)) x[place(i)] = tile.x[i];
      } else {
        Two<bf16> two;
        two.both = transposed(tile.of[i]);
        if (has(i)) two.to(x + place(i));
      }
  }
  // Zeros where there is nothing.
  __device__ Factor<T> load(const T* x) const {
    Factor<T> tile{};
#pragma unroll
    for (int i = 0; i < kAccesses; ++i)
      if constexpr (kWide) {
        if (has(i)) tile.x[i] = x[place(i)];
      } else {
        tile.of[i] = transposed(has(i) ? Two<bf16>::from(x + place(i)).both : 0);
      }
    return tile;
  }

 private:
  static constexpr bool kWide = sizeof(T) == 4;
  static constexpr int kAccesses = kWide ? 8 : 4;
  // Of the lane's first access, and of another from there.
  __device__ static int lane_row() { return kWide ? tile_column(0) : tile_row(0); }
  __device__ static int lane_channel() { return kWide ? tile_row(0) : tile_column(0); }
  __device__ static constexpr int row(int i) { return kWide ? i / 4 * 8 + i % 2 : i / 2 * 8; }
  __device__ static constexpr int channel(int i) { return kWide ? i / 2 % 2 * 8 : i % 2 * 8; }
  __device__ bool has(int i) const { return row(i) < rows_ && channel(i) < channels_; }
  __device__ int64_t place(int i) const { return at_ + row(i) * stride_ + channel(i); }

  int stride_, rows_, channels_;
  int64_t at_;
};

}  // namespace wuneng::kernels::cuda

// Rows of activations [T, heads, D] in global memory, two channels an access, and as tiles [channel, t] in a
// warp's registers.
#pragma once
#include "kernels/cuda/common/tile.h"

namespace wuneng::kernels::cuda {

// Returns x, opaque to the compiler: values derived from it are recomputed for each chunk. Otherwise the
// compiler hoists them out of the loop over chunks, into registers that the state needs.
__device__ inline int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Two adjacent channels, loaded and stored by one access.
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

// The location of a tile in tensors [T, heads, D]: channels [first, first + 16) of rows [row, row + C) of
// head h. f32 is accessed in the layout of the fragment; bf16 after transposing its matrices, two channels
// per access.
template <class T>
class TileRows {
 public:
  __device__ TileRows(int64_t row, int C, int64_t heads, int64_t h, int D, int first)
      : stride_(opaque(static_cast<int>(heads) * D)),
        rows_(C - lane_row()),
        channels_(D - first - lane_channel()),
        at_((row + lane_row()) * stride_ + h * D + first + lane_channel()) {}

  __device__ void store(T* x, const Fragment<T>& tile) const {
#pragma unroll
    for (int i = 0; i < kAccesses; ++i)
      if constexpr (kIsF32) {
        if (has(i)) x[offset(i)] = tile.x[i];
      } else {
        Two<bf16> two;
        two.both = transposed(tile.of[i]);
        if (has(i)) two.to(x + offset(i));
      }
  }
  // Zeros outside the rows and channels.
  __device__ Fragment<T> load(const T* x) const {
    Fragment<T> tile{};
#pragma unroll
    for (int i = 0; i < kAccesses; ++i)
      if constexpr (kIsF32) {
        if (has(i)) tile.x[i] = x[offset(i)];
      } else {
        tile.of[i] = transposed(has(i) ? Two<bf16>::from(x + offset(i)).both : 0);
      }
    return tile;
  }

 private:
  static constexpr bool kIsF32 = sizeof(T) == 4;
  static constexpr int kAccesses = kIsF32 ? 8 : 4;
  // Row and channel of the lane's first access, and offsets of the others from it.
  __device__ static int lane_row() { return kIsF32 ? tile_column(0) : tile_row(0); }
  __device__ static int lane_channel() { return kIsF32 ? tile_row(0) : tile_column(0); }
  __device__ static constexpr int row(int i) { return kIsF32 ? i / 4 * 8 + i % 2 : i / 2 * 8; }
  __device__ static constexpr int channel(int i) { return kIsF32 ? i / 2 % 2 * 8 : i % 2 * 8; }
  __device__ bool has(int i) const { return row(i) < rows_ && channel(i) < channels_; }
  __device__ int64_t offset(int i) const { return at_ + row(i) * stride_ + channel(i); }

  int stride_, rows_, channels_;
  int64_t at_;
};

}  // namespace wuneng::kernels::cuda

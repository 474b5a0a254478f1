// A state in registers and its update over a chunk, shared by the WKV-7 kernels.
#pragma once
#include "kernels/cuda/wkv7/wkv7_chunk.h"

namespace wuneng::kernels::cuda {

// A warp's 16 rows of a state S [D (value), D (key)], or of S^T if kByKey, as tiles along the columns.
template <class T, int W, bool kByKey>
struct State {
  static constexpr int kTiles = W / kTile, P = Chunk<T, W>::P;
  Tile m[kTiles];

  // f(pointer to two adjacent elements of a tile's row, offset of the first in [D, D]) for the elements
  // within D; the offset of the second is 1 larger, D larger if kByKey.
  template <class F>
  __device__ void each(int D, int own, F f) {
    const int right = kByKey ? D : 1, down = kByKey ? 1 : D;  // to the next column of a tile, and row
    int at = (own + tile_row(0)) * down + tile_column(0) * right;
#pragma unroll
    for (int b = 0; b < kTiles; ++b, at += kTile * right)
#pragma unroll
      for (int p = 0; p < 4; ++p)
        if (own + tile_row(2 * p) < D && b * kTile + tile_column(2 * p) < D)
          f(m[b].x + 2 * p, at + p % 2 * 8 * down + p / 2 * 8 * right);
  }
  // from null: zeros. store: does nothing for null.
  __device__ void load(const float* from, int D, int own) {
#pragma unroll
    for (int b = 0; b < kTiles; ++b) m[b] = Tile{};
    if (!from) return;
    each(D, own, [&](float* x, int at) {
      if constexpr (kByKey) {
        x[0] = from[at], x[1] = from[at + D];
      } else {
        const auto two = Two<float>::from(from + at);
        x[0] = two[0], x[1] = two[1];
      }
    });
  }
  __device__ void add(const float* from, int D, int own) {
    static_assert(!kByKey);
    each(D, own, [&](float* x, int at) {
      const auto two = Two<float>::from(from + at);
      x[0] += two[0], x[1] += two[1];
    });
  }
  __device__ void store(float* to, int D, int own) {
    if (!to) return;
    each(D, own, [&](const float* x, int at) {
      if constexpr (kByKey)
        to[at] = x[0], to[at + D] = x[1];
      else
        Two<float>(x[0], x[1]).to(to + at);
    });
  }

  // Updates S_0 to the state after the chunk: S_C = (S_0 + V^T K + U^T B) diag(e^G). first and second are the
  // warp's channels of V and U, or of K and B if kByKey, as tiles [channel, t].
  __device__ void advance(Chunk<T, W>& c, int own, const Fragment<T>& first, const Fragment<T>& second) {
    const T* other = kByKey ? c.VU : c.KB;
#pragma unroll
    for (int b = 0; b < kTiles; ++b) {
      add_product(m[b], first, load_tile<true>(other + b * kTile, P));
      add_product(m[b], second, load_tile<true>(other + kC * P + b * kTile, P));
#pragma unroll
      for (int i = 0; i < 8; ++i)
        m[b].x[i] *= c.total()[kByKey ? own + tile_row(i) : b * kTile + tile_column(i)];
    }
  }
  __device__ void advance(Chunk<T, W>& c, int own) {
    const T* mine = (kByKey ? c.KB : c.VU) + own;
    advance(c, own, load_tile<true>(mine, P), load_tile<true>(mine + kC * P, P));
  }
};

// a b^T for a and b [16, P] in shared memory, summed over all W channels.
template <class T, int W>
__device__ Tile product_of_rows(const T* a, const T* b) {
  constexpr int P = Chunk<T, W>::P;
  Tile sum{};
#pragma unroll 1
  for (int at = 0; at < W; at += kTile) add_product(sum, load_tile(a + at, P), load_tile(b + at, P));
  return sum;
}

// (I - A_ab)^-1
template <class T, int W>
__device__ Tile removal_inverse(Chunk<T, W>& c) {
  const Tile x = causal(product_of_rows<T, W>(c.A, c.B()), true);
  Tile transposed = product_of_rows<T, W>(c.B(), c.A);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (tile_row(i) >= tile_column(i)) transposed.x[i] = 0;
  return unit_inverse<T>(x, transposed);
}

}  // namespace wuneng::kernels::cuda

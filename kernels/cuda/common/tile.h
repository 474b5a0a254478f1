// Tiles of 16 x 16 in a warp's registers, and their products in tensor cores.
//
// Lane 4 g + t holds four pairs of neighbours: (g, 2 t), (g + 8, 2 t), (g, 2 t + 8), (g + 8, 2 t + 8) and
// those right of them. The tensor cores leave their sums so and take a left factor so, and a right factor too
// if it comes transposed. So the one product here is d += a b^T: a sum is a factor of the next product, on
// either side, without a way through memory.
//
// T is the activations' type and says how good products are: float, f32's precision (tensor_core.h's six
// products of tf32 parts); bf16, one product of factors rounded to bf16, summed in f32, or, where that is not
// enough, of factors in two bf16 parts (add_exact).
#pragma once
#include "kernels/cuda/common/mma_bf16.h"
#include "kernels/cuda/common/tensor_core.h"

namespace wuneng::kernels::cuda {

inline constexpr int kTile = 16;

struct alignas(16) Tile {
  float x[8];  // pair p in x[2 p] and x[2 p + 1]
};
// Of x[i] of a tile in the lane.
__device__ inline int lane_of_warp() { return static_cast<int>(threadIdx.x) % wuneng::cuda::kWarp; }
__device__ inline int tile_row(int i) { return lane_of_warp() / 4 + i / 2 % 2 * 8; }
__device__ inline int tile_column(int i) { return i / 4 * 8 + lane_of_warp() % 4 * 2 + i % 2; }

// f(row, column) of each element.
template <class F>
__device__ inline Tile tile_from(F f) {
  Tile tile;
#pragma unroll
  for (int i = 0; i < 8; ++i) tile.x[i] = f(tile_row(i), tile_column(i));
  return tile;
}
// Keeps the entries right of the diagonal from none, or from the diagonal on where strict: row t meets what
// rows up to t have written.
__device__ inline Tile causal(const Tile& tile, bool strict) {
  Tile out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.x[i] = tile_column(i) <= tile_row(i) - strict ? tile.x[i] : 0.0f;
  return out;
}

// A tile as a factor of products.
template <class T>
struct Factor;
template <>
struct alignas(16) Factor<float> {
  float x[8];
};
template <>
struct alignas(16) Factor<bf16> : Matrices {};  // the pairs

template <class T>
__device__ inline Factor<T> factor(const Tile& tile) {
  Factor<T> out;
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 8; ++i) out.x[i] = tile.x[i];
  } else {
#pragma unroll
    for (int p = 0; p < 4; ++p) out.of[p] = pack(tile.x[2 * p], tile.x[2 * p + 1]);
  }
  return out;
}
__device__ inline Tile values(const Factor<float>& f) {
  Tile out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.x[i] = f.x[i];
  return out;
}
__device__ inline Tile values(const Factor<bf16>& f) {
  Tile out;
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    out.x[2 * p] = low_of(f.of[p]);
    out.x[2 * p + 1] = high_of(f.of[p]);
  }
  return out;
}
// What a factor lacks of its tile, as a factor.
__device__ inline Factor<bf16> rest(const Tile& tile, const Factor<bf16>& high) {
  Tile low = values(high);
#pragma unroll
  for (int i = 0; i < 8; ++i) low.x[i] = tile.x[i] - low.x[i];
  return factor<bf16>(low);
}

// d += a b^T
__device__ inline void add_product(Tile& d, const Factor<bf16>& a, const Factor<bf16>& b) {
  auto& halves = reinterpret_cast<float(&)[2][4]>(d.x);
#pragma unroll
  for (int half = 0; half < 2; ++half) mma(halves[half], a, b.of[half], b.of[half + 2]);
}
// In f32 through products of depth 8. A sum has no order, so the depth's two neighbours that a lane holds may
// stand where the tensor cores expect the columns t and t + 4.
__device__ inline void add_product(Tile& d, const Factor<float>& a, const Factor<float>& b) {
  auto& halves = reinterpret_cast<float(&)[2][4]>(d.x);
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const float *x = a.x + 4 * s, *y = b.x + 4 * s + 2 * half;
      multiply_tile(halves[half], {x[0], x[2], x[1], x[3]}, {y[0], y[1]});
    }
}

// d += a b^T with 16 bits of each factor at least. Its products go into sums of their own: they would else
// wait for each other, and who needs this waits for them.
template <class T>
__device__ inline void add_exact(Tile& d, const Tile& a, const Tile& b) {
  const Factor<T> x = factor<T>(a), y = factor<T>(b);
  add_product(d, x, y);
  if constexpr (sizeof(T) == 2) {
    Tile left{}, right{};
    add_product(left, rest(a, x), y);
    add_product(right, x, rest(b, y));
#pragma unroll
    for (int i = 0; i < 8; ++i) d.x[i] += left.x[i] + right.x[i];
  }
}
// The same where b is exact in T.
template <class T>
__device__ inline void add_exact(Tile& d, const Tile& a, const Factor<T>& b) {
  const Factor<T> x = factor<T>(a);
  if constexpr (sizeof(T) == 2) add_product(d, rest(a, x), b);
  add_product(d, x, b);
}

// A matrix in shared memory that tiles are taken from, rows `pitch` apart.
__device__ __host__ constexpr int tile_pitch(int columns) {
  return columns + 8;  // eight rows of eight bf16 numbers then lie in different banks
}

// The tile at `at`: element (i, j) is at[i * pitch + j], or of the transposed one at[j * pitch + i].
template <bool kTransposed = false>
__device__ inline Factor<float> load_tile(const float* at, int pitch) {
  Factor<float> out;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    out.x[i] =
        kTransposed ? at[tile_column(i) * pitch + tile_row(i)] : at[tile_row(i) * pitch + tile_column(i)];
  return out;
}
template <bool kTransposed = false>
__device__ inline Factor<bf16> load_tile(const bf16* at, int pitch) {
  // Lane l gives the place of row l % 8 of the matrix l / 8, of the four 8 x 8 ones that become the pairs.
  const int lane = lane_of_warp(), first = lane / 8 % 2 * 8, second = lane / 16 * 8;
  const bf16* row =
      kTransposed ? at + (lane % 8 + second) * pitch + first : at + (lane % 8 + first) * pitch + second;
  return {kTransposed ? load_transposed(row) : load_matrices(row)};
}

__device__ inline void store_tile(float* at, int pitch, const Factor<float>& f) {
#pragma unroll
  for (int i = 0; i < 8; ++i) at[tile_row(i) * pitch + tile_column(i)] = f.x[i];
}
__device__ inline void store_tile(bf16* at, int pitch, const Factor<bf16>& f) {
#pragma unroll
  for (int p = 0; p < 4; ++p)
    reinterpret_cast<unsigned*>(at + tile_row(2 * p) * pitch + tile_column(2 * p))[0] = f.of[p];
}

// (I - x)^-1 of a strictly lower triangular x, given with its transpose: (I + x)(I + x^2)(I + x^4)(I + x^8),
// since x^16 = 0.
template <class T>
__device__ inline Tile unit_inverse(Tile x, Tile transposed) {
  Tile inverse = tile_from([](int i, int j) { return i == j ? 1.0f : 0.0f; });
#pragma unroll
  for (int i = 0; i < 8; ++i) inverse.x[i] += x.x[i];
#pragma unroll 1
  for (int power = 2; power < kTile; power *= 2) {
    Tile square{}, square_transposed{};
    add_exact<T>(square_transposed, transposed, x);
    if (2 * power < kTile) add_exact<T>(square, x, transposed);
    x = square, transposed = square_transposed;
    const Tile before = inverse;
    add_exact<T>(inverse, before, transposed);
  }
  return inverse;
}

}  // namespace wuneng::kernels::cuda

// 16 x 16 tiles in a warp's registers, and their products on tensor cores.
//
// Lane 4 g + t holds four pairs of adjacent elements: (g, 2 t), (g + 8, 2 t), (g, 2 t + 8), (g + 8, 2 t + 8)
// and their right neighbours. This is mma's layout of accumulators, of the operand A and of a transposed
// operand B. So the one product here is d += a b^T: accumulators are an operand of the next product, on
// either side, without a shuffle or shared memory.
//
// T is the type of the activations and sets the precision of products: float, that of f32 (six tf32 products,
// tensor_core.h); bf16, one product of operands rounded to bf16 with f32 accumulation, or where that is not
// enough, operands split into two bf16 parts (add_exact).
#pragma once
#include "kernels/cuda/common/mma_bf16.h"
#include "kernels/cuda/common/tensor_core.h"

namespace wuneng::kernels::cuda {

inline constexpr int kTile = 16;

struct alignas(16) Tile {
  float x[8];  // pair p in x[2 p] and x[2 p + 1]
};
// Row and column of this lane's element x[i].
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
// Causal mask: the elements above the diagonal become zero, if strict the diagonal too.
__device__ inline Tile causal(const Tile& tile, bool strict) {
  Tile out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.x[i] = tile_column(i) <= tile_row(i) - strict ? tile.x[i] : 0.0f;
  return out;
}

// A tile as an operand of products.
template <class T>
struct Fragment;
template <>
struct alignas(16) Fragment<float> {
  float x[8];
};
template <>
struct alignas(16) Fragment<bf16> : Matrices {};  // the pairs

template <class T>
__device__ inline Fragment<T> fragment(const Tile& tile) {
  Fragment<T> out;
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 8; ++i) out.x[i] = tile.x[i];
  } else {
#pragma unroll
    for (int p = 0; p < 4; ++p) out.of[p] = pack(tile.x[2 * p], tile.x[2 * p + 1]);
  }
  return out;
}
__device__ inline Tile to_tile(const Fragment<float>& f) {
  Tile out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.x[i] = f.x[i];
  return out;
}
__device__ inline Tile to_tile(const Fragment<bf16>& f) {
  Tile out;
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    out.x[2 * p] = low_of(f.of[p]);
    out.x[2 * p + 1] = high_of(f.of[p]);
  }
  return out;
}
// tile - high, as a fragment: the rounding error of `high`.
__device__ inline Fragment<bf16> residual(const Tile& tile, const Fragment<bf16>& high) {
  Tile low = to_tile(high);
#pragma unroll
  for (int i = 0; i < 8; ++i) low.x[i] = tile.x[i] - low.x[i];
  return fragment<bf16>(low);
}

// d += a b^T
__device__ inline void add_product(Tile& d, const Fragment<bf16>& a, const Fragment<bf16>& b) {
  auto& halves = reinterpret_cast<float(&)[2][4]>(d.x);
#pragma unroll
  for (int half = 0; half < 2; ++half) mma(halves[half], a, b.of[half], b.of[half + 2]);
}
// In f32 by products of depth 8. The order of the depth is arbitrary, so the two adjacent columns that a lane
// holds may take the places of the columns t and t + 4.
__device__ inline void add_product(Tile& d, const Fragment<float>& a, const Fragment<float>& b) {
  auto& halves = reinterpret_cast<float(&)[2][4]>(d.x);
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const float *x = a.x + 4 * s, *y = b.x + 4 * s + 2 * half;
      multiply_tile(halves[half], {x[0], x[2], x[1], x[3]}, {y[0], y[1]});
    }
}

// d += a b^T with at least 16 bits of each operand. The correction products have accumulators of their own,
// so that they do not depend on each other: their latency is on the critical path.
template <class T>
__device__ inline void add_exact(Tile& d, const Tile& a, const Tile& b) {
  const Fragment<T> x = fragment<T>(a), y = fragment<T>(b);
  add_product(d, x, y);
  if constexpr (sizeof(T) == 2) {
    Tile left{}, right{};
    add_product(left, residual(a, x), y);
    add_product(right, x, residual(b, y));
#pragma unroll
    for (int i = 0; i < 8; ++i) d.x[i] += left.x[i] + right.x[i];
  }
}
// The same for a b that is exact in T.
template <class T>
__device__ inline void add_exact(Tile& d, const Tile& a, const Fragment<T>& b) {
  const Fragment<T> x = fragment<T>(a);
  if constexpr (sizeof(T) == 2) add_product(d, residual(a, x), b);
  add_product(d, x, b);
}

// Row pitch of a matrix in shared memory.
__device__ __host__ constexpr int tile_pitch(int columns) {
  return columns + 8;  // no bank conflict between eight rows of eight bf16 elements
}

// The tile at `at`: element (i, j) is at[i * pitch + j], if kTransposed at[j * pitch + i].
template <bool kTransposed = false>
__device__ inline Fragment<float> load_tile(const float* at, int pitch) {
  Fragment<float> out;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    out.x[i] =
        kTransposed ? at[tile_column(i) * pitch + tile_row(i)] : at[tile_row(i) * pitch + tile_column(i)];
  return out;
}
template <bool kTransposed = false>
__device__ inline Fragment<bf16> load_tile(const bf16* at, int pitch) {
  // Lane l passes the address of row l % 8 of 8 x 8 matrix l / 8 (ldmatrix.x4).
  const int lane = lane_of_warp(), first = lane / 8 % 2 * 8, second = lane / 16 * 8;
  const bf16* row =
      kTransposed ? at + (lane % 8 + second) * pitch + first : at + (lane % 8 + first) * pitch + second;
  return {kTransposed ? load_transposed(row) : load_matrices(row)};
}

__device__ inline void store_tile(float* at, int pitch, const Fragment<float>& f) {
#pragma unroll
  for (int i = 0; i < 8; ++i) at[tile_row(i) * pitch + tile_column(i)] = f.x[i];
}
__device__ inline void store_tile(bf16* at, int pitch, const Fragment<bf16>& f) {
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

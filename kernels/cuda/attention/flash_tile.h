// Tiles of bf16 rows in shared memory, their products by mma.sync, and the operations of attention on a tile
// of scores. Scores stay in registers: a warp owns a multiple of 16 rows, in the accumulator layout of mma
// (mma_bf16.h).
#pragma once
#include "kernels/cuda/common/mma_bf16.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {

// Rows of D channels padded by 16 bytes: load_matrices, which reads the same 16-byte piece of eight
// consecutive rows, has no bank conflicts. (A swizzle would save the padding, but with it all addresses of a
// lane are at constant offsets from one, where a swizzle costs 24 registers.)
template <int D>
struct RowTile {
  static constexpr int kPieces = D / 8;  // of 16 bytes
  char* data;

  __device__ __host__ static constexpr int bytes(int rows) { return rows * (kPieces + 1) * 16; }
  static_assert(kPieces % 8 == 0);
  __device__ char* at(int row, int piece) const { return data + bytes(row) + piece * 16; }
};

// Starts an asynchronous copy of kRows rows from x on, `pitch` elements apart; rows from `there` on are
// zeros. By all kThreads of the block; each copies the same 16-byte piece of rows that are a multiple of 8
// apart.
template <int kRows, int kThreads, int D>
__device__ void copy_rows(RowTile<D> to, const bf16* x, int64_t pitch, int there) {
  constexpr int kStep = kThreads / RowTile<D>::kPieces;
  static_assert(kStep % 8 == 0 && kRows % kStep == 0);
  const int row = threadIdx.x / RowTile<D>::kPieces, piece = threadIdx.x % RowTile<D>::kPieces;
  char* const at = to.at(row, piece);
  const bf16* from = x + row * pitch + piece * 8;
#pragma unroll
  for (int i = 0; i < kRows; i += kStep, from += kStep * pitch)
    copy_async<16>(at + RowTile<D>::bytes(i), row + i < there ? from : x, row + i < there);
}

// A warp's accumulators of a [16 kHeight, 8 kWidth] tile.
template <int kHeight, int kWidth>
struct Accumulators {
  float of[kHeight][kWidth][4] = {};
};

// sums = a [16 kHeight rows from `row` on, D] b [8 kWidth, D]^T
template <int kHeight, int kWidth, int D>
__device__ Accumulators<kHeight, kWidth> scores_of(RowTile<D> a, int row, RowTile<D> b) {
  const int lane = threadIdx.x % wuneng::cuda::kWarp;
  const RowTile<D> of_a{a.at(row + lane % 16, lane / 16)}, of_b{b.at(lane % 8 + lane / 16 * 8, lane / 8 % 2)};
  Accumulators<kHeight, kWidth> sums;
#pragma unroll 2  // fully unrolled, ptxas hoists more loads than there are registers for
  for (int k = 0; k < D / 16; ++k) {
    Matrices left[kHeight];
#pragma unroll
    for (int m = 0; m < kHeight; ++m) left[m] = load_matrices(of_a.at(16 * m, 2 * k));
#pragma unroll
    for (int n = 0; n < kWidth; n += 2) {
      const Matrices right = load_matrices(of_b.at(8 * n, 2 * k));
#pragma unroll
      for (int m = 0; m < kHeight; ++m) {
        mma(sums.of[m][n], left[m], right.of[0], right.of[1]);
        mma(sums.of[m][n + 1], left[m], right.of[2], right.of[3]);
      }
    }
  }
  return sums;
}

// sums [16 kHeight, D] += weights [16 kHeight, 8 kDepth], rounded to bf16, x [8 kDepth, D]
template <int kHeight, int kDepth, int D>
__device__ void add_weighted(Accumulators<kHeight, D / 8>& sums, const Accumulators<kHeight, kDepth>& weights,
                             RowTile<D> x) {
  const int lane = threadIdx.x % wuneng::cuda::kWarp;
  const RowTile<D> of_x{x.at(lane % 16, lane / 16)};
#pragma unroll
  for (int k = 0; k < kDepth; k += 2) {
    Matrices left[kHeight];
#pragma unroll
    for (int m = 0; m < kHeight; ++m) {
      const float(&near)[4] = weights.of[m][k], (&far)[4] = weights.of[m][k + 1];
      left[m] = {pack(near[0], near[1]), pack(near[2], near[3]), pack(far[0], far[1]), pack(far[2], far[3])};
    }
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      const Matrices right = load_transposed(of_x.at(8 * k, n));
#pragma unroll
      for (int m = 0; m < kHeight; ++m) {
        mma(sums.of[m][n], left[m], right.of[0], right.of[1]);
        mma(sums.of[m][n + 1], left[m], right.of[2], right.of[3]);
      }
    }
  }
}

// f(m, half, n, e, row, column) for each of a lane's accumulators of[m][n][2 half + e]; row and column in the
// tile.
template <int kHeight, int kWidth, class F>
__device__ void for_each_accumulator(F f) {
  const int lane = threadIdx.x % wuneng::cuda::kWarp;
#pragma unroll
  for (int m = 0; m < kHeight; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < kWidth; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) f(m, half, n, e, 16 * m + 8 * half + lane / 4, 8 * n + lane % 4 * 2 + e);
}

// Sets the elements to `hidden` for which visible(row, column), in the tile's coordinates, is false.
template <int kHeight, int kWidth, class F>
__device__ void mask(Accumulators<kHeight, kWidth>& sums, float hidden, F visible) {
  for_each_accumulator<kHeight, kWidth>([&](int m, int half, int n, int e, int row, int column) {
    if (!visible(row, column)) sums.of[m][n][2 * half + e] = hidden;
  });
}

// Transposes the words of the four lanes that hold a row: lane i gets word i of lanes 0 to 3.
__device__ inline void transpose_quad(unsigned (&words)[4]) {
  const unsigned lane = threadIdx.x % 4;
#pragma unroll
  for (unsigned mask = 1; mask < 4; mask *= 2) {
    const bool upper = lane & mask;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      if (i & mask) continue;
      const unsigned got = __shfl_xor_sync(~0u, upper ? words[i] : words[i + mask], mask);
      upper ? words[i] = got : words[i + mask] = got;
    }
  }
}

// Stores rows of accumulators to x: row i of the tile is row `first + i`; rows from `last` on are not stored.
// kAdd: accumulates into x without atomics (each row has one writer). By all lanes of a warp; x is aligned to
// 16 bytes, as are its rows. A lane has 4 bytes of every 16 of its row: the quad exchanges them, so that each
// lane accesses 16.
template <bool kAdd, int kHeight, int kWidth>
__device__ void store_rows(const Accumulators<kHeight, kWidth>& sums, float scale, bf16* x, int64_t pitch,
                           int64_t first, int64_t last) {
  static_assert(kWidth % 4 == 0);
  const int lane = threadIdx.x % wuneng::cuda::kWarp;
#pragma unroll
  for (int m = 0; m < kHeight; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first + 16 * m + 8 * half + lane / 4;
      uint4* const to = reinterpret_cast<uint4*>(x + row * pitch) + lane % 4;
#pragma unroll
      for (int n = 0; n < kWidth; n += 4) {
        unsigned words[4] = {};
        if constexpr (kAdd) {
          if (row < last) {
            const uint4 before = to[n];
            words[0] = before.x, words[1] = before.y, words[2] = before.z, words[3] = before.w;
          }
          transpose_quad(words);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float low = scale * sums.of[m][n + i][2 * half],
                      high = scale * sums.of[m][n + i][2 * half + 1];
          words[i] = kAdd ? pack(low_of(words[i]) + low, high_of(words[i]) + high) : pack(low, high);
        }
        transpose_quad(words);
        if (row < last) wuneng::cuda::store_word(to[n], uint4{words[0], words[1], words[2], words[3]});
      }
    }
}

// Reductions over the four lanes that hold a row.
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

}  // namespace wuneng::kernels::cuda

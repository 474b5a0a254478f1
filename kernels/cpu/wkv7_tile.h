// The small matrices of WKV-7: products, transposes and triangular inverses of blocks whose sides are
// multiples of 16.
//
// A chunk has 16 rows, one AVX-512 register of floats; at this size a call into a BLAS costs more than the
// product. Everything here is one register block per inner loop: a scalar of the left factor, spread over all
// lanes, times a row of the right one. So the left factor may have any strides (a transpose costs nothing),
// the right one needs contiguous rows.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

namespace wuneng::kernels::cpu {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif
using Lanes [[gnu::vector_size(kLanes * sizeof(float))]] = float;
using LanesInMemory
    [[gnu::vector_size(kLanes * sizeof(float)), gnu::aligned(alignof(float)), gnu::may_alias]] = float;

inline Lanes load(const float* from) { return *reinterpret_cast<const LanesInMemory*>(from); }
inline void store(float* to, Lanes x) { *reinterpret_cast<LanesInMemory*>(to) = x; }

// Scratch that starts zeroed and on a cache line, so that no vector straddles two.
template <class T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const CacheLineAllocator&) const = default;
};
using Scratch = std::vector<float, CacheLineAllocator<float>>;

// f(0), f(1), .. with constants, so that arrays indexed by them stay in registers.
template <int kCount, class F>
[[gnu::always_inline]] inline void unroll(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

// The left factor of a product: element (i, p) is data[i * row + p * column].
struct Left {
  const float* data;
  int64_t row, column;
};

// Where a product goes: c = (base + product) diag(scale), either of which may be left out.
struct Into {
  float* c;
  int64_t ldc;
  const float* base = nullptr;   // as c, may be c
  const float* scale = nullptr;  // a factor for each column
};

// One block of kRows x (kVectors kLanes) of c.
template <bool kBase, bool kScale, int kRows, int kVectors>
[[gnu::always_inline]] inline void multiply_block(int64_t depth, Left a, const float* b, int64_t ldb,
                                                  Into to) {
  Lanes sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) sum[i][j] = kBase ? load(to.base + i * to.ldc + j * kLanes) : Lanes{};
      // Unrolled, row[] stays in registers: in a plain loop GCC 12 loads it again for every row of the block.
#pragma GCC unroll 4
  for (int64_t p = 0; p < depth; ++p) {
    Lanes row[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) row[j] = load(b + p * ldb + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const float x = a.data[i * a.row + p * a.column];
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sum[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j)
      store(to.c + i * to.ldc + j * kLanes, kScale ? sum[i][j] * load(to.scale + j * kLanes) : sum[i][j]);
}

template <bool kBase, bool kScale, int kRows, int kVectors>
[[gnu::noinline]] void multiply_columns(int64_t m, int64_t depth, Left a, const float* b, int64_t ldb,
                                        Into to) {
  for (int64_t i = 0; i < m; i += kRows) {
    multiply_block<kBase, kScale, kRows, kVectors>(depth, a, b, ldb, to);
    a.data += kRows * a.row;
    to.c += kRows * to.ldc;
    if constexpr (kBase) to.base += kRows * to.ldc;
  }
}

template <bool kBase, bool kScale>
void multiply_into(int64_t m, int64_t n, int64_t depth, Left a, const float* b, int64_t ldb, Into to) {
  constexpr int kPair = 2 * kLanes, kPairRows = kLanes < 16 ? 4 : 8;  // sums fill half the registers at most
  const auto columns = [&](int64_t j) {
    return Into{to.c + j, to.ldc, kBase ? to.base + j : nullptr, kScale ? to.scale + j : nullptr};
  };
  int64_t j = 0;
  for (; j + kPair <= n; j += kPair)
    multiply_columns<kBase, kScale, kPairRows, 2>(m, depth, a, b + j, ldb, columns(j));
  for (; j < n; j += kLanes) multiply_columns<kBase, kScale, kLanes, 1>(m, depth, a, b + j, ldb, columns(j));
}

// c [m, n] = a [m, depth] b [depth, n]; m and n multiples of 16.
inline void multiply(int64_t m, int64_t n, int64_t depth, Left a, const float* b, int64_t ldb, float* c,
                     int64_t ldc) {
  multiply_into<false, false>(m, n, depth, a, b, ldb, {c, ldc});
}
// c += a b
inline void multiply_add(int64_t m, int64_t n, int64_t depth, Left a, const float* b, int64_t ldb, float* c,
                         int64_t ldc) {
  multiply_into<true, false>(m, n, depth, a, b, ldb, {c, ldc, c});
}
// c = (base + a b) diag(scale), scale [n]
inline void multiply_add_scaled(int64_t m, int64_t n, int64_t depth, Left a, const float* b, int64_t ldb,
                                const float* base, const float* scale, float* c, int64_t ldc) {
  multiply_into<true, true>(m, n, depth, a, b, ldb, {c, ldc, base, scale});
}

// to [n, m] = from [m, n]^T; m and n multiples of 16. Each of log2(kLanes) rounds interleaves the rows of a
// block's upper half with those of the lower: the perfect shuffle, which after all rounds has exchanged row
// and column numbers.
inline void transpose(int64_t m, int64_t n, const float* from, int64_t ld_from, float* to, int64_t ld_to) {
  constexpr int kHalf = kLanes / 2;
  const auto interleave = []<int... i>(std::integer_sequence<int, i...>, Lanes a, Lanes b, auto first)
      __attribute__((always_inline)) {
    return __builtin_shufflevector(a, b, (first + i / 2 + i % 2 * kLanes)...);
  };
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>{};
  for (int64_t i = 0; i < m; i += kLanes)
    for (int64_t j = 0; j < n; j += kLanes) {
      Lanes rows[kLanes];
      unroll<kLanes>([&](auto r)
                         __attribute__((always_inline)) { rows[r] = load(from + (i + r) * ld_from + j); });
      unroll<std::bit_width(unsigned{kLanes}) - 1>([&](auto) __attribute__((always_inline)) {
        Lanes next[kLanes];
        unroll<kHalf>([&](auto r) __attribute__((always_inline)) {
          next[2 * r] = interleave(kAll, rows[r], rows[r + kHalf], std::integral_constant<int, 0>{});
          next[2 * r + 1] = interleave(kAll, rows[r], rows[r + kHalf], std::integral_constant<int, kHalf>{});
        });
        unroll<kLanes>([&](auto r) __attribute__((always_inline)) { rows[r] = next[r]; });
      });
      unroll<kLanes>([&](auto r)
                         __attribute__((always_inline)) { store(to + (j + r) * ld_to + i, rows[r]); });
    }
}

// inverse [16, 16] = (I - x)^-1 for a strictly triangular x [16, 16], row by row: row_t = e_t + sum_j x_tj
// row_j over the rows that are done.
template <bool kUpper>
[[gnu::noinline]] void unit_inverse(const float* x, int64_t ldx, float* inverse) {
  for (int column = 0; column < 16; column += kLanes) {
    Lanes rows[16];
    unroll<16>([&](auto step) __attribute__((always_inline)) {
      constexpr int t = kUpper ? 15 - step : step;
      Lanes row{};
      if (t >= column && t < column + kLanes) row[t - column] = 1.0f;
      unroll<step>([&](auto done) __attribute__((always_inline)) {
        constexpr int j = kUpper ? 15 - done : done;
        row += x[t * ldx + j] * rows[j];
      });
      rows[t] = row;
      store(inverse + t * 16 + column, row);
    });
  }
}

}  // namespace wuneng::kernels::cpu

#include "kernels/cpu/few_rows.h"

#include <bit>
#include <cstring>

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kLanes = 16;
using Lanes [[gnu::vector_size(64)]] = float;
using Bits [[gnu::vector_size(64)]] = uint32_t;
using Halves [[gnu::vector_size(32)]] = uint16_t;

Lanes load(const float* p) {
  Lanes x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
Lanes load(const bf16* p) {
  Halves x;
  std::memcpy(&x, p, sizeof x);
  return std::bit_cast<Lanes>(__builtin_convertvector(x, Bits) << 16);
}

// The first `count` < 16 elements, 0 behind them.
template <class T>
Lanes load_part(const T* p, int64_t count) {
  T padded[kLanes] = {};
  std::memcpy(padded, p, count * sizeof(T));
  return load(padded);
}

float sum(const Lanes& x) {
  float part[kLanes];
  std::memcpy(part, &x, sizeof part);
  for (int64_t half = kLanes / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

// R rows by C columns: enough sums at a time to hide the latency of an addition.
template <int R, int C, class T>
void tile(const FewRows& x, const T* b, int64_t m, int64_t n) {
  Lanes sums[R][C] = {};
  const auto add = [&](const auto& left, const auto& right) {
    Lanes columns[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) columns[j] = right(j);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Lanes row = left(i);
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) sums[i][j] += row * columns[j];
    }
  };
  const float* a = x.a + m * x.lda;
  b += n * x.ldb;
  int64_t k = 0;
  for (; k + kLanes <= x.K; k += kLanes)
    add([&](int i) { return load(a + i * x.lda + k); }, [&](int j) { return load(b + j * x.ldb + k); });
  if (const int64_t left = x.K - k)
    add([&](int i) { return load_part(a + i * x.lda + k, left); },
        [&](int j) { return load_part(b + j * x.ldb + k, left); });
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j) {
      const int64_t at = (m + i) * x.ldc + n + j;
      x.c[at] = x.scale * sum(sums[i][j]) + (x.base ? x.base[at] : 0) + (x.bias ? x.bias[n + j] : 0);
    }
}

template <int C, class T>
void column(const FewRows& x, const T* b, int64_t n) {
  int64_t m = 0;
  for (; m + 4 <= x.M; m += 4) tile<4, C>(x, b, m, n);
  for (; m + 1 <= x.M; ++m) tile<1, C>(x, b, m, n);
}

template <class T>
void columns(const FewRows& x, const T* b, int64_t begin, int64_t end) {
  int64_t n = begin;
  if (x.M == 1)
    for (; n + 8 <= end; n += 8) tile<1, 8>(x, b, 0, n);
  for (; n + 4 <= end; n += 4) column<4>(x, b, n);
  for (; n < end; ++n) column<1>(x, b, n);
}

}  // namespace

void few_rows(const FewRows& args, int64_t begin, int64_t end) {
  if (args.b.dtype() == DType::bf16)
    columns(args, args.b.data<bf16>() + args.first, begin, end);
  else
    columns(args, args.b.f32() + args.first, begin, end);
}

}  // namespace wuneng::kernels::cpu

#include "kernels/cpu/few_rows.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <cstring>

namespace wuneng::kernels::cpu {
namespace {

// A register of floats. Compilers make several instructions of what widens integers to it in one.
#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif
using Lanes [[gnu::vector_size(kLanes * 4)]] = float;

Lanes load(const float* p) {
  Lanes x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

#if defined(__AVX512F__)
// With a mask, since GCC 12 takes the undefined register of the forms without one for a fault.
constexpr __mmask16 kAll = 0xffff;
Lanes load(const bf16* p) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, _mm512_maskz_cvtepu16_epi32(kAll, x), 16));
}
Lanes load(const f16* p) {
  return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
Lanes load(const int8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_maskz_cvtepi32_ps(kAll, _mm512_maskz_cvtepi8_epi32(kAll, x));
}
#elif defined(__AVX2__) && defined(__F16C__)
Lanes load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
Lanes load(const bf16* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
Lanes load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#else
template <class T>
Lanes load(const T* p) {
  float x[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) x[i] = static_cast<float>(p[i]);
  return load(x);
}
#endif

// The first `count` < kLanes elements, 0 behind them.
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
      const float scale = x.b_scale ? x.scale * x.b_scale[n + j] : x.scale;
      x.c[at] = scale * sum(sums[i][j]) + (x.base ? x.base[at] : 0) + (x.bias ? x.bias[n + j] : 0);
    }
}

template <int C, class T>
void column(const FewRows& x, const T* b, int64_t n) {
  int64_t m = 0;
  for (; m + 4 <= x.M; m += 4) tile<4, C>(x, b, m, n);
  for (; m + 1 <= x.M; ++m) tile<1, C>(x, b, m, n);
}

// Columns beside four rows: their sums stay in registers.
constexpr int kTogether = kLanes == 16 ? 4 : 2;

template <class T>
void columns(const FewRows& x, const T* b, int64_t begin, int64_t end) {
  int64_t n = begin;
  if (x.M == 1)
    for (; n + 8 <= end; n += 8) tile<1, 8>(x, b, 0, n);
  for (; n + kTogether <= end; n += kTogether) column<kTogether>(x, b, n);
  for (; n < end; ++n) column<1>(x, b, n);
}

}  // namespace

void few_rows(const FewRows& args, int64_t begin, int64_t end) {
  if (args.b.dtype() == DType::bf16)
    columns(args, args.b.data<bf16>() + args.first, begin, end);
  else if (args.b.dtype() == DType::f16)
    columns(args, args.b.data<f16>() + args.first, begin, end);
  else if (args.b.dtype() == DType::i8)
    columns(args, args.b.data<int8_t>() + args.first, begin, end);
  else
    columns(args, args.b.f32() + args.first, begin, end);
}

}  // namespace wuneng::kernels::cpu

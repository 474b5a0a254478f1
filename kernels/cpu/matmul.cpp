#include "kernels/matmul.h"

#include <algorithm>
#include <optional>

#include "kernels/channel.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kWorthAThread =
    1 << 18;                        // multiplications: with fewer, starting a thread costs more than it saves
constexpr int64_t kHeadRows = 256;  // rows of one head in one product: several threads may share a head

int64_t grain_for(int64_t multiplications_each) {
  return std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, multiplications_each));
}

void matmul_by_row(const MatmulArgs& args) {
  const int64_t M = args.c.dim(0), N = args.c.dim(1), K = args.a.dim(1);
  WUNENG_ASSERT(args.accumulate == 0 || !args.base.defined());
  const std::optional<F32In> bias = args.bias.defined() ? std::optional<F32In>(args.bias) : std::nullopt;
  const FewRows rows{.a = args.a.f32(),
                     .lda = K,
                     .b = args.b,
                     .first = 0,
                     .ldb = K,
                     .c = args.c.f32(),
                     .ldc = N,
                     .base = args.base.defined() ? args.base.f32()
                             : args.accumulate   ? args.c.f32()
                                                 : nullptr,
                     .bias = bias ? bias->data() : nullptr,
                     .b_scale = args.b_scale.defined() ? args.b_scale.f32() : nullptr,
                     .scale = args.scale,
                     .M = M,
                     .K = K};
  parallel_for(N, grain_for(M * K), [&](int64_t begin, int64_t end) { few_rows(rows, begin, end); });
}

void head_matmul_by_row(const HeadMatmulArgs& args) {
  const int64_t T = args.x.dim(0), H = args.w.dim(0), O = args.w.dim(1), I = args.w.dim(2);
  parallel_for(H, grain_for(T * O * I), [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h)
      few_rows({.a = args.x.f32() + h * I,
                .lda = H * I,
                .b = args.w,
                .first = h * O * I,
                .ldb = I,
                .c = args.y.f32() + h * O,
                .ldc = H * O,
                .base = args.base.defined() ? args.base.f32() + h * O : nullptr,
                .bias = nullptr,
                .b_scale = nullptr,
                .scale = 1,
                .M = T,
                .K = I},
               0, O);
  });
}

// The matrix in f32 that i8 rows and their scales stand for.
Tensor scaled_rows(const Tensor& rows, const Tensor& scale) {
  const int64_t N = rows.dim(0), K = rows.dim(1);
  const Tensor out = Tensor::empty({N, K});
  parallel_for(N, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, K)), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t k = 0; k < K; ++k)
        out.f32()[n * K + k] = scale.f32()[n] * static_cast<float>(rows.data<int8_t>()[n * K + k]);
  });
  return out;
}

}  // namespace

void matmul(const Stream& stream, const MatmulArgs& args) {
  const int64_t M = args.c.dim(0), N = args.c.dim(1), K = args.a.dim(args.transpose_a ? 0 : 1);
  if (args.a.dim(args.transpose_a ? 1 : 0) != M || args.b.dim(args.transpose_b ? 0 : 1) != N ||
      args.b.dim(args.transpose_b ? 1 : 0) != K)
    fail("matmul: {}{} times {}{} into {}: shapes do not match", to_string(args.a.shape()),
         args.transpose_a ? " transposed" : "", to_string(args.b.shape()),
         args.transpose_b ? " transposed" : "", to_string(args.c.shape()));
  WUNENG_ASSERT(!args.base.defined() || (args.base.shape() == args.c.shape() && args.accumulate == 0));
  WUNENG_ASSERT(!args.bias.defined() || args.bias.numel() == N);
  WUNENG_ASSERT(args.b_scale.defined() == (args.b.dtype() == DType::i8) &&
                (!args.b_scale.defined() || (args.transpose_b && args.b_scale.numel() == N)));
  if (args.sums.defined()) column_sum(stream, {.dy = args.a, .dbias = args.sums});
  if (!M || !N) return;
  if (args.by_row && M <= kFewRows && args.transpose_b && !args.transpose_a) return matmul_by_row(args);
  const F32In a(args.a), b(args.b_scale.defined() ? scaled_rows(args.b, args.b_scale) : args.b);
  const std::optional<F32In> bias = args.bias.defined() ? std::optional<F32In>(args.bias) : std::nullopt;
  float* c = args.c.f32();
  const float* base = args.base.defined() ? args.base.f32() : nullptr;
  const int64_t lda = args.a.dim(1), ldb = args.b.dim(1);
  const auto gemm = [&](int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    for (int64_t m = m0; base && base != c && m < m1; ++m)
      std::copy(base + m * N + n0, base + m * N + n1, c + m * N + n0);
    sgemm(args.transpose_a, args.transpose_b, m1 - m0, n1 - n0, K, args.scale,
          a.data() + (args.transpose_a ? m0 : m0 * lda), lda, b.data() + (args.transpose_b ? n0 * ldb : n0),
          ldb, base ? 1 : args.accumulate, c + m0 * N + n0, N);
    for (int64_t m = m0; bias && m < m1; ++m) {
      const float* add = bias->data();
#pragma omp simd
      for (int64_t n = n0; n < n1; ++n) c[m * N + n] += add[n];
    }
  };
  // Split the longer side, never K: the order of summation does not depend on the thread count. A part
  // thinner than a register tile wastes part of it.
  const int64_t grain = std::max<int64_t>(16, grain_for(std::min(M, N) * K));
  if (M >= N)
    parallel_for(M, grain, [&](int64_t begin, int64_t end) { gemm(begin, end, 0, N); });
  else
    parallel_for(N, grain, [&](int64_t begin, int64_t end) { gemm(0, M, begin, end); });
}

void head_matmul(const Stream&, const HeadMatmulArgs& args) {
  const int64_t T = args.x.dim(0), H = args.w.dim(0), O = args.w.dim(1), I = args.w.dim(2);
  const int64_t in = args.transpose ? O : I, out = args.transpose ? I : O;
  WUNENG_ASSERT(args.x.dim(1) == H && args.x.dim(2) == in && args.y.dim(1) == H && args.y.dim(2) == out);
  if (!T) return;
  if (args.by_row && T <= kFewRows && !args.transpose) return head_matmul_by_row(args);
  if (args.base.defined()) Gradient(args.y, args.base).begun();
  const F32In w(args.w);
  const int64_t blocks = (T + kHeadRows - 1) / kHeadRows;
  parallel_for(H * blocks, grain_for(std::min(T, kHeadRows) * O * I), [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t h = job / blocks, t = job % blocks * kHeadRows;
      sgemm(false, !args.transpose, std::min(kHeadRows, T - t), out, in, 1, args.x.f32() + (t * H + h) * in,
            H * in, w.data() + h * O * I, I, args.base.defined() ? 1 : 0, args.y.f32() + (t * H + h) * out,
            H * out);
    }
  });
}

void head_matmul_weight_grad(const Stream&, const HeadMatmulWeightGradArgs& args) {
  const int64_t T = args.x.dim(0), H = args.dw.dim(0), O = args.dw.dim(1), I = args.dw.dim(2);
  WUNENG_ASSERT(args.dy.dim(1) == H && args.dy.dim(2) == O && args.x.dim(1) == H && args.x.dim(2) == I);
  if (!T) return;
  parallel_for(H, grain_for(T * O * I), [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h)
      sgemm(true, false, O, I, T, 1, args.dy.f32() + h * O, H * O, args.x.f32() + h * I, H * I, 1,
            args.dw.f32() + h * O * I, I);
  });
}

}  // namespace wuneng::kernels::cpu

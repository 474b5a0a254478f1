// Matrix products against loops in double: every transposition and type, splits over threads, empty sizes.
// Outputs that are overwritten are NaN before, so that 0 times the old value is detected.
#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "runtime/threads.h"

namespace wuneng::kernels::matmul_test {
namespace {

constexpr double kTolerance = 1e-5;  // relative norm
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class WithThreads {
 public:
  explicit WithThreads(int count) : before_(thread_count()) { set_thread_count(count); }
  ~WithThreads() { set_thread_count(before_); }

 private:
  int before_;
};

Tensor random_tensor(Shape shape, unsigned seed, DType dtype = DType::f32) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Tensor t = Tensor::empty(std::move(shape));
  for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = normal(random);
  return t.to(dtype);
}

Tensor constant(Shape shape, float value) {
  Tensor t = Tensor::empty(std::move(shape));
  std::fill_n(t.f32(), t.numel(), value);
  return t;
}

std::vector<double> doubles(const Tensor& t) {
  const Tensor x = t.to(DType::f32);
  return {x.f32(), x.f32() + x.numel()};
}

void expect_near(const Tensor& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.numel(), static_cast<int64_t>(expected.size()));
  double error = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(found.f32()[i] - expected[i], 2);
    norm += expected[i] * expected[i];
  }
  EXPECT_LE(std::sqrt(error), kTolerance * std::sqrt(norm));  // false where anything is NaN
}

struct Sizes {
  int64_t M, N, K;
};
// One element, thin, both splits (M long, N long), both thin with K long, and each size 0.
const std::vector<Sizes> kSizes = {{1, 1, 1},      {3, 5, 7},      {1, 700, 400},  {700, 1, 400},
                                   {260, 90, 130}, {90, 260, 130}, {17, 19, 3000}, {150, 150, 150},
                                   {0, 5, 3},      {5, 0, 3},      {5, 3, 0}};

std::vector<double> product(const MatmulArgs& args, const std::vector<double>& before) {
  const int64_t M = args.c.dim(0), N = args.c.dim(1), K = args.a.dim(args.transpose_a ? 0 : 1);
  const std::vector<double> a = doubles(args.a), b = doubles(args.b);
  std::vector<double> c(M * N);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < N; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < K; ++k)
        sum += a[args.transpose_a ? k * M + m : m * K + k] * b[args.transpose_b ? n * K + k : k * N + n];
      c[m * N + n] = args.scale * sum + (args.accumulate == 0 ? 0 : args.accumulate * before[m * N + n]);
      if (args.base.defined()) c[m * N + n] += args.base.f32()[m * N + n];
      if (args.bias.defined()) c[m * N + n] += doubles(args.bias)[n];
    }
  return c;
}

void check_matmul(const Sizes& size, bool transpose_a, bool transpose_b, float scale, float accumulate,
                  DType a_type = DType::f32, DType b_type = DType::f32) {
  SCOPED_TRACE(testing::Message() << "M " << size.M << " N " << size.N << " K " << size.K << " transposed "
                                  << transpose_a << transpose_b << " scale " << scale << " accumulate "
                                  << accumulate);
  const MatmulArgs args{
      .a = random_tensor(transpose_a ? Shape{size.K, size.M} : Shape{size.M, size.K}, 1, a_type),
      .b = random_tensor(transpose_b ? Shape{size.N, size.K} : Shape{size.K, size.N}, 2, b_type),
      .c = accumulate == 0 ? constant({size.M, size.N}, kNan) : random_tensor({size.M, size.N}, 3),
      .transpose_a = transpose_a,
      .transpose_b = transpose_b,
      .scale = scale,
      .accumulate = accumulate};
  const std::vector<double> expected = product(args, doubles(args.c));
  matmul({}, args);
  expect_near(args.c, expected);
}

TEST(Matmul, EveryTranspositionAndSizeOnOneToThreeThreads) {
  for (const int threads : {1, 2, 3}) {
    const WithThreads with(threads);
    for (const Sizes& size : kSizes)
      for (const bool transpose_a : {false, true})
        for (const bool transpose_b : {false, true}) {
          check_matmul(size, transpose_a, transpose_b, 1.0f, 0.0f);
          check_matmul(size, transpose_a, transpose_b, -0.5f, 1.0f);
        }
  }
}

TEST(Matmul, Bf16OnEitherSide) {
  for (const auto& [a, b] :
       {std::pair{DType::f32, DType::bf16}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}})
    for (const bool transpose : {false, true}) {
      check_matmul({33, 65, 40}, transpose, !transpose, 1.0f, 0.0f, a, b);
      check_matmul({33, 65, 40}, transpose, transpose, 2.0f, 1.0f, a, b);
    }
}

TEST(Matmul, BaseBiasAndSumsOfRows) {
  for (const int threads : {1, 3}) {
    const WithThreads with(threads);
    for (const Sizes& size : kSizes)
      for (const DType type : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(testing::Message() << "M " << size.M << " N " << size.N << " K " << size.K);
        MatmulArgs args{.a = random_tensor({size.K, size.M}, 1),
                        .b = random_tensor({size.K, size.N}, 2),
                        .c = constant({size.M, size.N}, kNan),
                        .transpose_a = true,
                        .scale = 0.5f,
                        .base = random_tensor({size.M, size.N}, 3),
                        .bias = random_tensor({size.N}, 4, type),
                        .sums = random_tensor({size.M}, 5)};
        const std::vector<double> expected = product(args, {});
        std::vector<double> sums = doubles(args.sums);
        for (int64_t k = 0; k < size.K; ++k)
          for (int64_t m = 0; m < size.M; ++m) sums[m] += args.a.f32()[k * size.M + m];
        matmul({}, args);
        expect_near(args.c, expected);
        expect_near(args.sums, sums);
        args.c = args.base;
        args.sums = {};
        matmul({}, args);
        expect_near(args.c, expected);
      }
  }
}

TEST(Matmul, SizesThatDoNotFitAreNamed) {
  const Tensor c = Tensor::zeros({2, 3});
  try {
    matmul({}, {.a = Tensor::zeros({2, 4}), .b = Tensor::zeros({5, 3}), .c = c});
    FAIL() << "took [2, 4] times [5, 3]";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[2, 4] times [5, 3]"), std::string::npos) << error.what();
  }
  EXPECT_THROW(matmul({}, {.a = Tensor::zeros({3, 4}), .b = Tensor::zeros({4, 3}), .c = c}), Error);
  EXPECT_THROW(matmul({}, {.a = Tensor::zeros({2, 4}), .b = Tensor::zeros({4, 2}), .c = c}), Error);
}

// The BLAS has internal buffers: concurrent products must not share them.
TEST(Matmul, ConcurrentProductsAreIndependent) {
  const WithThreads with(4);
  constexpr int64_t kProducts = 64, kSize = 96;
  std::vector<MatmulArgs> alone, together;
  for (unsigned i = 0; i < kProducts; ++i) {
    const Tensor a = random_tensor({kSize, kSize}, 2 * i), b = random_tensor({kSize, kSize}, 2 * i + 1);
    for (auto* list : {&alone, &together})
      list->push_back({.a = a, .b = b, .c = constant({kSize, kSize}, kNan)});
  }
  for (const MatmulArgs& args : alone) matmul({}, args);
  parallel_for(kProducts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) matmul({}, together[i]);
  });
  for (int64_t i = 0; i < kProducts; ++i) expect_near(together[i].c, doubles(alone[i].c));
}

struct HeadSizes {
  int64_t T, H, O, I;
};
// One element, odd sizes, more rows than one product handles, no rows, no inputs.
const std::vector<HeadSizes> kHeadSizes = {{1, 1, 1, 1},    {5, 3, 4, 6}, {600, 3, 24, 16},
                                           {300, 1, 8, 40}, {0, 2, 3, 4}, {5, 2, 4, 0}};

void check_head_matmul(const HeadSizes& size, bool transpose, bool accumulate, DType weight) {
  SCOPED_TRACE(testing::Message() << "T " << size.T << " H " << size.H << " O " << size.O << " I " << size.I
                                  << " transpose " << transpose << " accumulate " << accumulate);
  const auto [T, H, O, I] = size;
  const int64_t in = transpose ? O : I, out = transpose ? I : O;
  const Tensor y = accumulate ? random_tensor({T, H, out}, 3) : constant({T, H, out}, kNan);
  const HeadMatmulArgs args{.x = random_tensor({T, H, in}, 1),
                            .w = random_tensor({H, O, I}, 2, weight),
                            .y = y,
                            .transpose = transpose,
                            .base = accumulate ? y : Tensor()};
  const std::vector<double> x = doubles(args.x), w = doubles(args.w);
  std::vector<double> expected = accumulate ? doubles(args.y) : std::vector<double>(T * H * out);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t o = 0; o < O; ++o)
        for (int64_t i = 0; i < I; ++i)
          expected[(t * H + h) * out + (transpose ? i : o)] +=
              w[(h * O + o) * I + i] * x[(t * H + h) * in + (transpose ? o : i)];
  head_matmul({}, args);
  expect_near(args.y, expected);
}

TEST(HeadMatmul, EachHeadWithItsOwnWeight) {
  for (const int threads : {1, 2, 3}) {
    const WithThreads with(threads);
    for (const HeadSizes& size : kHeadSizes)
      for (const bool transpose : {false, true})
        for (const bool accumulate : {false, true})
          for (const DType weight : {DType::f32, DType::bf16})
            check_head_matmul(size, transpose, accumulate, weight);
  }
}

TEST(HeadMatmul, WeightGradientIsAdded) {
  for (const int threads : {1, 2, 3}) {
    const WithThreads with(threads);
    for (const auto& [T, H, O, I] : kHeadSizes) {
      SCOPED_TRACE(testing::Message() << "T " << T << " H " << H << " O " << O << " I " << I);
      const HeadMatmulWeightGradArgs args{.dy = random_tensor({T, H, O}, 1),
                                          .x = random_tensor({T, H, I}, 2),
                                          .dw = random_tensor({H, O, I}, 3)};
      std::vector<double> expected = doubles(args.dw);
      for (int64_t t = 0; t < T; ++t)
        for (int64_t h = 0; h < H; ++h)
          for (int64_t o = 0; o < O; ++o)
            for (int64_t i = 0; i < I; ++i)
              expected[(h * O + o) * I + i] +=
                  static_cast<double>(args.dy.f32()[(t * H + h) * O + o]) * args.x.f32()[(t * H + h) * I + i];
      head_matmul_weight_grad({}, args);
      expect_near(args.dw, expected);
    }
  }
}

}  // namespace
}  // namespace wuneng::kernels::matmul_test

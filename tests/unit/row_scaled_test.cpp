// Rows of 8-bit numbers with a scale: what they stand for is within half a step of what was packed.
#include "kernels/row_scaled.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace wuneng::kernels::row_scaled_test {
namespace {

Tensor there_and_back(const Tensor& x) {
  const Tensor packed = Tensor::empty({x.dim(0), x.dim(1) + kScaleBytes}, DType::i8),
               out = Tensor::empty(x.shape());
  pack_scaled({}, {.x = x, .packed = packed});
  unpack_scaled({}, {.packed = packed, .x = out});
  return out;
}

TEST(RowScaled, IsWithinHalfAStepOfEachElement) {
  constexpr int64_t T = 13, C = 37;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const Tensor x = Tensor::empty({T, C});
  for (int64_t i = 0; i < T * C; ++i)
    x.f32()[i] = normal(random) * std::pow(10.0f, static_cast<float>(i / C) - 6);  // rows of 1e-6 to 1e6
  for (const DType type : {DType::f32, DType::bf16}) {
    const Tensor given = x.to(type), values = given.to(DType::f32), found = there_and_back(given);
    for (int64_t t = 0; t < T; ++t) {
      float largest = 0;
      for (int64_t c = 0; c < C; ++c) largest = std::max(largest, std::fabs(values.f32()[t * C + c]));
      for (int64_t c = 0; c < C; ++c)
        ASSERT_NEAR(found.f32()[t * C + c], values.f32()[t * C + c], 0.50001 * largest / 127)
            << t << " " << c;
    }
  }
}

TEST(RowScaled, KeepsZerosAndWhatIsNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinite = std::numeric_limits<float>::infinity();
  const Tensor x = Tensor::from<float>({0, 0, 1, nan, -infinite, 2, -127, 64, 1e-38f, 0}, {5, 2});
  const Tensor found = there_and_back(x);
  const float* y = found.f32();
  for (int i : {0, 1, 8, 9}) EXPECT_EQ(y[i], 0) << i;
  for (int i = 2; i < 6; ++i) EXPECT_TRUE(std::isnan(y[i])) << i;
  EXPECT_EQ(y[6], -127);
  EXPECT_EQ(y[7], 64);
}

}  // namespace
}  // namespace wuneng::kernels::row_scaled_test

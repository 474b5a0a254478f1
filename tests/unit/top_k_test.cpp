// The k largest of a row and the mass of the rest: against a sort in double precision, in one call and from
// the parts that ranks with some of the columns have.
#include "kernels/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace wuneng::kernels::top_k_test {
namespace {

constexpr int64_t C = 7, N = 53;

Tensor logits() {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const Tensor x = Tensor::empty({1, C, N});
  for (int64_t i = 0; i < C * N; ++i) x.f32()[i] = 4 * normal(random);
  for (int64_t n = 0; n < N; ++n) x.f32()[n] = static_cast<float>(n % 3);  // equal ones
  for (int64_t n = 0; n < N; ++n) x.f32()[N + n] -= n == 30 ? 0 : 80;      // nearly all in one token
  return x;
}

struct Expected {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;  // of the k, and of the rest
};
Expected expected(const float* x, int64_t k, double factor, int64_t first) {
  std::vector<int32_t> order(N);
  for (int32_t n = 0; n < N; ++n) order[n] = n;
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
  long double whole = 0, rest = 0;
  const double largest = factor * x[order[0]];
  for (int64_t n = 0; n < N; ++n) {
    const long double e = std::exp((long double)(factor * x[order[n]] - largest));
    whole += e;
    if (n >= k) rest += e;
  }
  Expected out;
  for (int64_t j = 0; j < k; ++j) {
    out.ids.push_back(static_cast<int32_t>(first + order[j]));
    out.logprobs.push_back(factor * x[order[j]] - largest - double(std::log(whole)));
  }
  out.logprobs.push_back(double(std::log(rest) - std::log(whole)));
  return out;
}

void expect_top(const Tensor& x, const Tensor& top, const Tensor& ids, double factor, int64_t first) {
  const int64_t k = ids.dim(1);
  for (int64_t row = 0; row < C; ++row) {
    const Expected e = expected(x.f32() + row * N, k, factor, first);
    for (int64_t j = 0; j < k; ++j) EXPECT_EQ(ids.data<int32_t>()[row * k + j], e.ids[j]) << row << " " << j;
    for (int64_t j = 0; j <= k; ++j)
      EXPECT_NEAR(top.f32()[row * (k + 1) + j], e.logprobs[j], 1e-6 * std::abs(e.logprobs[j]) + 2e-6)
          << row << " " << j;
  }
}

class TopK : public testing::TestWithParam<int64_t> {};

TEST_P(TopK, OfARow) {
  const int64_t k = GetParam();
  const Tensor x = logits(), top = Tensor::empty({C, k + 1}), ids = Tensor::empty({C, k}, DType::i32);
  top_k({}, {.x = x, .first = 1000, .factor = 0.7f, .normalize = true, .top = top, .top_ids = ids});
  expect_top(x, top, ids, 0.7f, 1000);
}

// Three ranks, the last of which has fewer columns than k.
TEST_P(TopK, OfTheRanksOfARow) {
  const int64_t k = GetParam();
  const std::vector<int64_t> bounds = {0, 30, 51, N};
  const Tensor x = logits(), all = Tensor::empty({3, C, k + 1}),
               all_ids = Tensor::empty({3, C, k}, DType::i32);
  for (int rank = 0; rank < 3; ++rank) {
    const int64_t begin = bounds[rank], size = bounds[rank + 1] - begin;
    const Tensor mine = Tensor::empty({1, C, size});
    for (int64_t row = 0; row < C; ++row)
      std::copy_n(x.f32() + row * N + begin, size, mine.f32() + row * size);
    top_k({}, {.x = mine,
               .first = begin,
               .factor = 0.7f,
               .top = all.rows(rank, rank + 1).view({C, k + 1}),
               .top_ids = all_ids.rows(rank, rank + 1).view({C, k})});
  }
  const Tensor top = Tensor::empty({C, k + 1}), ids = Tensor::empty({C, k}, DType::i32);
  top_k({}, {.x = all, .ids = all_ids, .has_rest = true, .normalize = true, .top = top, .top_ids = ids});
  expect_top(x, top, ids, 0.7f, 0);
}

INSTANTIATE_TEST_SUITE_P(K, TopK, testing::Values(1, 5, 20, N - 1));

TEST(TopKOfNaN, IsNaN) {
  const Tensor x = logits(), top = Tensor::empty({C, 3}), ids = Tensor::empty({C, 2}, DType::i32);
  x.f32()[17] = std::numeric_limits<float>::quiet_NaN();
  top_k({}, {.x = x, .normalize = true, .top = top, .top_ids = ids});
  for (int j = 0; j < 3; ++j) EXPECT_TRUE(std::isnan(top.f32()[j])) << j;
  EXPECT_FALSE(std::isnan(top.f32()[3]));
}

}  // namespace
}  // namespace wuneng::kernels::top_k_test

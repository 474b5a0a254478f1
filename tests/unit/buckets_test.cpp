// Which elements share a bucket, and which of them a data-parallel rank has: parts of parameters, and the
// rectangles that they are of logical tensors.
#include "parallel/buckets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

#include "parallel/gradients.h"
#include "parallel/weight_gather.h"

namespace wuneng::buckets_test {
namespace {

Parameter make_parameter(const Shape& shape, int shard_dim, Range held) {
  Parameter p;
  p.name = "w";
  p.global_shape = shape;
  p.shard_dim = shard_dim;
  p.held = p.owned = held;
  p.var = Var(Tensor::zeros(p.local_shape()), true);
  return p;
}

// Of an element of the shard: its place in the logical tensor.
Shape place_of(const Parameter& p, int64_t element) {
  Shape local = p.local_shape(), at(local.size());
  for (size_t k = local.size(); k-- > 0; element /= local[k]) at[k] = element % local[k];
  at[p.shard_dim] += p.held.begin;
  return at;
}

TEST(Rectangles, HoldTheElementsOfEveryPartInTheirOrder) {
  const std::vector<Parameter> all = {
      make_parameter({7}, 0, {2, 7}),       make_parameter({5, 3}, 0, {1, 5}),
      make_parameter({3, 6}, 1, {2, 5}),    make_parameter({1, 8}, 0, {0, 1}),
      make_parameter({4, 3, 2}, 0, {0, 3}), make_parameter({2, 1, 3, 2}, 0, {0, 2})};
  for (const Parameter& p : all) {
    SCOPED_TRACE(to_string(p.global_shape));
    const int64_t n = p.var.value().numel();
    for (int64_t begin = 0; begin <= n; ++begin)
      for (int64_t end = begin; end <= n; ++end) {
        const std::vector<Rectangle> found = rectangles({&p, {begin, end}});
        ASSERT_LE(found.size(), 2 * p.global_shape.size() - 1);
        int64_t next = begin;
        for (const Rectangle& r : found) {
          ASSERT_EQ(r.elements.begin, next);
          ASSERT_EQ(r.elements.size(), element_count(r.size));
          // Its elements in row-major order.
          Shape at(r.size.size(), 0);
          for (; next < r.elements.end; ++next) {
            Shape place = r.begin;
            for (size_t k = 0; k < at.size(); ++k) place[k] += at[k];
            ASSERT_EQ(place, place_of(p, next));
            for (size_t k = at.size(); k-- > 0 && ++at[k] == r.size[k];) at[k] = 0;
          }
        }
        ASSERT_EQ(next, end);
      }
  }
}

TEST(Rectangles, OfAWholeShardIsOne) {
  const Parameter p = make_parameter({6, 4}, 1, {1, 3});
  const std::vector<Rectangle> found = rectangles(&p);
  ASSERT_EQ(found.size(), 1);
  EXPECT_EQ(found[0].begin, (Shape{0, 1}));
  EXPECT_EQ(found[0].size, (Shape{6, 2}));
}

TEST(ParameterPart, OwnsWhatNoLowerRankHolds) {
  Parameter p = make_parameter({10, 3}, 0, {2, 8});
  p.owned = {4, 8};  // elements 6 to 18 of the shard
  EXPECT_EQ((ParameterPart{&p, {0, 10}}.owned().elements), (Range{6, 10}));
  EXPECT_EQ((ParameterPart{&p, {7, 18}}.owned().elements), (Range{7, 18}));
  EXPECT_EQ((ParameterPart{&p, {0, 5}}.owned().elements.size()), 0);
  p.owned = {0, 0};
  EXPECT_EQ(ParameterPart(&p).owned().elements.size(), 0);
}

TEST(Buckets, SharesTileTheTrainableParameters) {
  std::deque<Parameter> all;
  for (const Shape& shape : {Shape{3}, {50, 7}, {1}, {200, 90}, {64}, {65}, {11, 5}})
    all.push_back(make_parameter(shape, 0, {0, shape[0]}));
  all[1].trainable = false;
  all[5].sum_over_embedding = true;
  Parameters parameters;
  for (Parameter& p : all) parameters.push_back(&p);
  for (const int dp : {1, 2, 3, 5, 64, 1000}) {
    SCOPED_TRACE(dp);
    std::map<const Parameter*, std::vector<int>> times;
    for (const Parameter& p : all) times[&p].resize(p.var.value().numel());
    int64_t most = 0;
    const std::vector<Bucket> buckets = make_buckets(parameters, 1, dp);
    EXPECT_TRUE(buckets.back().at_the_ends);
    for (int rank = 0; rank < dp; ++rank) {
      int64_t count = 0;
      for (const Bucket& bucket : buckets) {
        const Range share = bucket.share(dp, rank);
        EXPECT_EQ(share.size() * dp, bucket.size);
        EXPECT_EQ(share.begin % 64, 0);
        for (const ParameterPart& part : bucket.parts(share)) {
          count += part.elements.size();
          for (int64_t e = part.elements.begin; e < part.elements.end; ++e) ++times[part.parameter][e];
        }
      }
      most = std::max(most, count);
    }
    int64_t trained = 0;
    for (const Parameter& p : all) {
      EXPECT_EQ(times[&p], std::vector<int>(p.var.value().numel(), p.trainable)) << to_string(p.global_shape);
      trained += p.trainable ? p.var.value().numel() : 0;
    }
    // No rank has more than an equal part, but for what alignment adds.
    EXPECT_LE(most, trained / dp + 64 * static_cast<int64_t>(all.size() + buckets.size()));
  }
}

// One product multiplies with both, and forms the gradients of both.
TEST(Buckets, JoinedParametersStayInOneTensor) {
  for (const bool frozen : {false, true}) {
    std::deque<Parameter> all;
    for (const Shape& shape : {Shape{3, 5}, {4, 5}, {4, 5}, {200, 90}, {6, 7}})
      all.push_back(make_parameter(shape, 0, {0, shape[0]}));
    for (size_t i = 0; i < all.size(); ++i) std::fill_n(all[i].var.value().f32(), 15, float(i));
    join(all[1], all[2]);
    all[2].trainable = !frozen;
    Parameters parameters;
    for (Parameter& p : all) parameters.push_back(&p);
    const GradientSums sums(parameters, {});
    const WeightGather weights(sums.buckets(), {});
    EXPECT_EQ(Tensor::together(all[1].var.value(), all[2].var.value()).defined(), !frozen);
    EXPECT_TRUE(frozen || Tensor::together(all[1].var.grad(), all[2].var.grad()).defined());
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].var.value().f32()[14], float(i));
  }
}

}  // namespace
}  // namespace wuneng::buckets_test

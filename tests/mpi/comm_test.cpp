#include "runtime/comm.h"

#include <gtest/gtest.h>

#include <cmath>

namespace wuneng {
namespace {

// A value that differs by rank and place, and sums exactly in f32.
float value(int rank, int64_t i) { return static_cast<float>((rank + 1) * (i % 97 - 40)); }

class AllReduce : public testing::TestWithParam<int64_t> {};

TEST_P(AllReduce, SumsMaximaAndMinimaOnBothSidesOfTheRing) {
  const Comm world = Comm::world();
  const int64_t n = GetParam();
  for (const Reduce op : {Reduce::sum, Reduce::max, Reduce::min}) {
    const Tensor t = Tensor::empty({n});
    for (int64_t i = 0; i < n; ++i) t.f32()[i] = value(world.rank(), i);
    world.all_reduce(t, op, "test");
    for (int64_t i = 0; i < n; ++i) {
      float sum = 0, largest = -INFINITY, least = INFINITY;
      for (int r = 0; r < world.size(); ++r)
        sum += value(r, i), largest = std::max(largest, value(r, i)), least = std::min(least, value(r, i));
      ASSERT_EQ(t.f32()[i], op == Reduce::sum ? sum : op == Reduce::max ? largest : least) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, AllReduce, testing::Values(1, 3, 1000, (1 << 18) + 5, (1 << 19) + 3));

TEST(Comm, ResultsAreBitwiseEqualOnAllRanks) {
  const Comm world = Comm::world();
  for (const int64_t n : {int64_t{7}, int64_t{300'001}}) {
    const Tensor t = Tensor::empty({n});
    for (int64_t i = 0; i < n; ++i) t.f32()[i] = std::sin(0.1f * static_cast<float>(i + 1000 * world.rank()));
    world.all_reduce(t, Reduce::sum, "test");
    const Tensor all = Tensor::empty({world.size(), n});
    world.all_gather(t, all, "test");
    for (int r = 1; r < world.size(); ++r)
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(all.f32()[r * n + i], all.f32()[i]);
  }
}

TEST(Comm, BroadcastGatherAndText) {
  const Comm world = Comm::world();
  const Tensor t = Tensor::from<float>({float(world.rank()), 5}, {2});
  world.broadcast(t, world.size() - 1, "test");
  EXPECT_EQ(t.f32()[0], world.size() - 1);
  const auto texts = world.all_gather_text(std::string(world.rank(), 'x'), "test");
  for (int r = 0; r < world.size(); ++r) EXPECT_EQ(texts[r], std::string(r, 'x'));
  EXPECT_EQ(world.all_reduce(1.5, Reduce::sum, "test"), 1.5 * world.size());
}

TEST(Comm, SplitGroupsByColorAndOrdersByKey) {
  const Comm world = Comm::world(), half = world.split(world.rank() % 2, -world.rank(), "half");
  for (size_t i = 1; i < half.world_ranks().size(); ++i)
    EXPECT_GT(half.world_ranks()[i - 1], half.world_ranks()[i]);
  for (int r : half.world_ranks()) EXPECT_EQ(r % 2, world.rank() % 2);
  const Comm alone = world.split(world.rank() == 0 ? 0 : -1, 0, "alone");
  EXPECT_EQ(alone.size(), 1);
  EXPECT_EQ(alone.all_reduce(2.0, Reduce::sum, "test"), 2.0);
}

TEST(Comm, MessagesInARing) {
  const Comm world = Comm::world();
  if (world.size() == 1) GTEST_SKIP() << "needs two ranks";
  const int next = (world.rank() + 1) % world.size(),
            before = (world.rank() + world.size() - 1) % world.size();
  const Tensor out = Tensor::from<int64_t>({world.rank(), 42}, {2}), in = Tensor::zeros({2}, DType::i64);
  Request receive = world.irecv(in, before, 3, "ring");
  Request send = world.isend(out, next, 3, "ring");
  receive.wait();
  send.wait();
  EXPECT_EQ(in.data<int64_t>()[0], before);
}

TEST(Comm, AWrongSizeIsNamed) {
  const Comm world = Comm::world();
  if (world.size() == 1) GTEST_SKIP() << "needs two ranks";
  if (world.rank() == 0) world.send(Tensor::zeros({2}), 1, 4, "short");
  if (world.rank() == 1) {
    try {
      world.recv(Tensor::zeros({3}), 0, 4, "short");
      FAIL() << "accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("expected 12 bytes, received 8"), std::string::npos) << e.what();
    }
  }
}

TEST(Comm, DifferentCallsAreNamed) {
  const Comm world = Comm::world();
  if (world.size() == 1) GTEST_SKIP() << "needs two ranks";
  const Tensor t = Tensor::zeros({world.rank() == 0 ? 4 : 5});
  EXPECT_THROW(world.all_reduce(t, Reduce::sum, "mismatch"), Error);  // WUNENG_CHECK_COLLECTIVES=1
}

}  // namespace
}  // namespace wuneng

#include "runtime/comm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "runtime/clock_offset.h"
#include "runtime/trace.h"

namespace wuneng {
namespace {

// A value that differs by rank and place, and sums exactly in f32.
float value(int rank, int64_t i) { return static_cast<float>((rank + 1) * (i % 97 - 40)); }

// What `call` fails with, from `part` on; "accepted" where it does not fail. Without `part` in it, all of it.
template <class F>
std::string message(const F& call, const std::string& part) {
  try {
    call();
  } catch (const Error& e) {
    const std::string text = e.what();
    const size_t at = text.find(part);
    if (at == std::string::npos) ADD_FAILURE() << "'" << part << "' is not in: " << text;
    return text.substr(at == std::string::npos ? 0 : at);
  }
  return "accepted";
}

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

template <class T>
void reduce_exactly(int64_t n) {
  const Comm world = Comm::world();
  const Tensor sum = Tensor::empty({n}, dtype_of<T>), least = Tensor::empty({n}, dtype_of<T>);
  for (int64_t i = 0; i < n; ++i)
    sum.data<T>()[i] = least.data<T>()[i] = static_cast<T>(value(world.rank(), i));
  world.all_reduce(sum, Reduce::sum, "test");
  world.all_reduce(least, Reduce::min, "test");
  for (int64_t i = 0; i < n; ++i) {
    T total = 0, smallest = static_cast<T>(value(0, i));
    for (int r = 0; r < world.size(); ++r) {
      total += static_cast<T>(value(r, i));
      smallest = std::min(smallest, static_cast<T>(value(r, i)));
    }
    ASSERT_EQ(sum.data<T>()[i], total) << i;
    ASSERT_EQ(least.data<T>()[i], smallest) << i;
  }
}

TEST_P(AllReduce, OfDoublesAndIntegers) {
  reduce_exactly<double>(GetParam());
  reduce_exactly<int64_t>(GetParam());
  reduce_exactly<int32_t>(GetParam());
}

// Summed in f32 and rounded once: in bf16, 256 + 1 is 256 again, however often it is added.
TEST_P(AllReduce, OfBf16IsRoundedOnce) {
  const Comm world = Comm::world();
  const int64_t n = GetParam();
  const auto mine = [&](int rank, int64_t i) { return bf16(rank == 0 ? 256.0f + 2.0f * (i % 5) : 1.0f); };
  for (const Reduce op : {Reduce::sum, Reduce::max, Reduce::min}) {
    const Tensor t = Tensor::empty({n}, DType::bf16);
    for (int64_t i = 0; i < n; ++i) t.data<bf16>()[i] = mine(world.rank(), i);
    world.all_reduce(t, op, "test");
    for (int64_t i = 0; i < n; ++i) {
      const auto most = static_cast<float>(mine(0, i));
      const float others = static_cast<float>(world.size() - 1), least = world.size() > 1 ? 1.0f : most;
      const bf16 wanted(op == Reduce::sum ? most + others : op == Reduce::max ? most : least);
      ASSERT_EQ(t.data<bf16>()[i].bits, wanted.bits) << i;
    }
  }
}

// Whichever rank has the NaN or the -0, on either side of the ring: no maximum may lose it or depend on the
// order.
TEST_P(AllReduce, MaximaKeepNanAndOrderZeros) {
  const Comm world = Comm::world();
  const int64_t n = GetParam();
  for (int owner = 0; owner < world.size(); ++owner)
    for (const Reduce op : {Reduce::max, Reduce::min}) {
      const Tensor nan = Tensor::zeros({n}), zero = Tensor::zeros({n});
      for (int64_t i = 0; i < n; ++i) {
        if (world.rank() == owner) nan.f32()[i] = NAN;
        zero.f32()[i] = world.rank() == owner ? 0.0f : -0.0f;
      }
      world.all_reduce(nan, op, "test");
      world.all_reduce(zero, op, "test");
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_TRUE(std::isnan(nan.f32()[i])) << i << " of rank " << owner;
        ASSERT_EQ(std::signbit(zero.f32()[i]), op == Reduce::min && world.size() > 1)
            << i << " of rank " << owner;
      }
    }
}

// Sizes below the ring, just above it, and over several blocks of it with a remainder.
INSTANTIATE_TEST_SUITE_P(Sizes, AllReduce,
                         testing::Values(1, 3, 1000, (1 << 18) + 5, (1 << 19) + 3, (5 << 18) + 7));

TEST(Comm, SumsBegunAreThereWhenWaitedFor) {
  const Comm world = Comm::world();
  const Tensor sum = Tensor::empty({300'000}), most = Tensor::empty({5});
  for (int64_t i = 0; i < sum.numel(); ++i) sum.f32()[i] = value(world.rank(), i);
  for (int64_t i = 0; i < 5; ++i) most.f32()[i] = value(world.rank(), i + 40);
  Request first = world.iall_reduce(sum, Reduce::sum, "sum");
  Request second = world.iall_reduce(most, Reduce::max, "most");
  EXPECT_EQ(first.done(), world.size() == 1);
  EXPECT_EQ(world.all_reduce(1.0, Reduce::sum, "meanwhile"), world.size());
  first.wait();
  second.wait();
  EXPECT_TRUE(first.done());
  const int n = world.size();
  for (int64_t i = 0; i < sum.numel(); ++i)
    ASSERT_EQ(sum.f32()[i], static_cast<float>(n * (n + 1) / 2 * (i % 97 - 40))) << i;
  for (int64_t i = 0; i < 5; ++i) ASSERT_EQ(most.f32()[i], value(n - 1, i + 40)) << i;
}

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

// Below the ring and above it, in several segments with a remainder.
TEST(Comm, AReduceScatterHasTheBitsOfAnAllReduce) {
  const Comm world = Comm::world();
  const int n = world.size();
  for (const int64_t each : {int64_t{1}, int64_t{1000}, int64_t{300'001}, int64_t{700'003}})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor mine = Tensor::empty({each * n});
      for (int64_t i = 0; i < mine.numel(); ++i)
        mine.f32()[i] = std::sin(0.1f * static_cast<float>(i + 1000 * world.rank()));
      const Tensor sum = mine.to(dtype).clone(), share = sum.clone(), begun = sum.clone();
      world.all_reduce(sum, Reduce::sum, "test");
      world.reduce_scatter(share, "test");
      Request request = world.ireduce_scatter(begun, "test");
      request.wait();
      const int64_t first = each * world.rank();
      for (const Tensor& found : {share, begun})
        EXPECT_EQ(std::memcmp(found.rows(first, first + each).raw(), sum.rows(first, first + each).raw(),
                              each * size_of(dtype)),
                  0)
            << each << " elements a rank";
    }
  const Tensor odd = Tensor::zeros({int64_t{n} + 1});
  if (n > 1) {
    EXPECT_NE(message([&] { world.reduce_scatter(odd, "odd"); }, "are not"), "accepted");
  }
}

TEST(Comm, AGatherFromItsPlaceInTheResult) {
  const Comm world = Comm::world();
  const int64_t each = 5;
  const Tensor all = Tensor::zeros({world.size() * each});
  const Tensor mine = all.rows(each * world.rank(), each * (world.rank() + 1));
  for (int64_t i = 0; i < each; ++i) mine.f32()[i] = value(world.rank(), i);
  Request request = world.iall_gather(mine, all, "test");
  EXPECT_FALSE(request.done());
  request.wait();
  for (int64_t i = 0; i < all.numel(); ++i)
    ASSERT_EQ(all.f32()[i], value(static_cast<int>(i / each), i % each)) << i;
}

// Clocks that are a second apart from rank to rank.
TEST(Comm, TheOffsetOfAClockIsMeasured) {
  const Comm world = Comm::world();
  const int64_t ahead = 1'000'000'000LL * world.rank();
  const int64_t found = clock_offset(world, [&] { return trace::now() + ahead; });
  EXPECT_NEAR(double(found), double(-ahead), world.rank() == 0 ? 0 : 1e8);
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

TEST(Comm, AMessageThatIsTooLongIsNamed) {
  const Comm world = Comm::world();
  if (world.size() == 1) GTEST_SKIP() << "needs two ranks";
  if (world.rank() == 0) world.send(Tensor::zeros({9}), 1, 4, "long");
  if (world.rank() == 1) {
    EXPECT_EQ(message([&] { world.recv(Tensor::zeros({3}), 0, 4, "long"); }, "expected"),
              "expected 12 bytes, received 36");
  }
}

// The ring's own messages must not meet a receive that a user has posted, whatever its tag.
TEST(Comm, AnAllReduceLeavesPostedReceivesAlone) {
  const Comm world = Comm::world();
  if (world.size() == 1) GTEST_SKIP() << "needs two ranks";
  const int next = (world.rank() + 1) % world.size(),
            before = (world.rank() + world.size() - 1) % world.size();
  std::vector<Tensor> in;
  std::vector<Request> requests;
  for (int tag = 0; tag < 8; ++tag) {
    in.push_back(Tensor::zeros({1 << 19}));
    requests.push_back(world.irecv(in.back(), before, tag, "posted"));
  }
  const Tensor sum = Tensor::zeros({1 << 20});
  for (int64_t i = 0; i < sum.numel(); ++i) sum.f32()[i] = 1;
  world.all_reduce(sum, Reduce::sum, "meanwhile");
  for (int64_t i = 0; i < sum.numel(); ++i) ASSERT_EQ(sum.f32()[i], world.size());
  for (int tag = 0; tag < 8; ++tag) {
    const Tensor out = Tensor::zeros({1 << 19});
    out.f32()[0] = static_cast<float>(10 + tag);
    requests.push_back(world.isend(out, next, tag, "posted"));
  }
  for (Request& r : requests) r.wait();
  for (int tag = 0; tag < 8; ++tag) EXPECT_EQ(in[tag].f32()[0], 10 + tag);
}

TEST(Comm, WhatOneRankCanSeeIsRefusedBeforeMpi) {
  const Comm world = Comm::world();
  const Tensor t = Tensor::zeros({2}), half = Tensor::zeros({2}, DType::f16);
  EXPECT_EQ(message([&] { world.all_reduce(half, Reduce::sum, "half"); }, "f16 cannot"),
            "f16 cannot be reduced, expected f32, bf16, f64, i32 or i64");
  EXPECT_EQ(message([&] { world.all_reduce(Tensor(), Reduce::sum, "nothing"); }, "the tensor"),
            "the tensor is undefined");
  for (const int root : {-1, world.size()})
    EXPECT_EQ(message([&] { world.broadcast(t, root, "root"); }, "expected"),
              fmt::format("expected a rank in [0, {}), found {}", world.size(), root));
  EXPECT_NE(message([&] { world.all_gather(t, Tensor::zeros({7}), "odd"); }, "do not make"), "accepted");
  for (const int peer : {-1, world.size()})
    EXPECT_NE(message([&] { world.send(t, peer, 0, "peer"); }, "expected a rank"), "accepted");
  if (world.size() > 1) {
    EXPECT_NE(message([&] { world.send(t, 0, -1, "tag"); }, "expected a tag"), "accepted");
  }
  EXPECT_NE(message([&] { Comm().send(t, 0, 0, "alone"); }, "the group has one rank"), "accepted");
}

TEST(Comm, ARankAloneKnowsItsPlaceInTheWorld) {
  const Comm world = Comm::world();
  for (const Comm& c : {Comm(), Comm().split(0, 0, "alone"), world.split(-1, 0, "alone")}) {
    EXPECT_EQ(c.size(), 1);
    EXPECT_EQ(c.world_ranks(), std::vector<int>{world.rank()});
  }
}

// 1 GiB and a bit: beyond what is counted in bytes. Two ranks only, for the memory.
TEST(Comm, MessagesAndGathersOfAnyLength) {
  const Comm world = Comm::world();
  if (world.size() != 2) GTEST_SKIP() << "needs two ranks and 4 GB";
  constexpr int64_t n = (int64_t{1} << 30) + 12'345, step = 4099;
  const auto byte = [](int64_t i) { return static_cast<uint8_t>(i * 7 + (i >> 20)); };
  const Tensor t = Tensor::zeros({n}, DType::u8);
  auto* const bytes = static_cast<uint8_t*>(t.raw());
  const auto check = [&](const uint8_t* found, int64_t of) {
    for (int64_t i = 0; i < of; i += step) ASSERT_EQ(found[i], byte(i)) << i;
    ASSERT_EQ(found[of - 1], byte(of - 1));
  };
  if (world.rank() == 0) {
    for (int64_t i = 0; i < n; ++i) bytes[i] = byte(i);
    world.send(t, 1, 1, "large");
  } else {
    world.recv(t, 0, 1, "large");
    check(bytes, n);
  }
  constexpr int64_t part = (int64_t{1} << 28) + 77;
  const Tensor all = Tensor::zeros({2, part}, DType::u8);
  world.all_gather(t.rows(0, part), all, "large");
  for (int r = 0; r < 2; ++r) check(static_cast<uint8_t*>(all.raw()) + r * part, part);
}

// WUNENG_CHECK_COLLECTIVES=1: each rank names its own call and that of a rank elsewhere.
TEST(Comm, DifferentCallsAreNamed) {
  const Comm world = Comm::world();
  if (world.size() == 1) GTEST_SKIP() << "needs two ranks";
  const Tensor t = Tensor::zeros({world.rank() == 0 ? 4 : 5});
  const char *four = "all_reduce sum 'mismatch' f32[4]", *five = "all_reduce sum 'mismatch' f32[5]";
  const bool first = world.rank() == 0;
  const std::string text = message([&] { world.all_reduce(t, Reduce::sum, "mismatch"); }, "");
  EXPECT_EQ(text.find(first ? four : five), 0) << text;
  EXPECT_NE(message([&] { world.iall_reduce(t, Reduce::sum, "begun"); }, "is in"), "accepted");
  EXPECT_NE(text.find(fmt::format("world rank {} is in {}", first ? 1 : 0, first ? five : four)),
            std::string::npos)
      << text;
  EXPECT_NE(message([&] { world.broadcast(Tensor::zeros({1}), world.rank() % 2, "roots"); }, "is in"),
            "accepted");
  EXPECT_NE(message(
                [&] {
                  if (first)
                    world.barrier("here");
                  else
                    world.all_reduce(1.0, Reduce::sum, "there");
                },
                "is in"),
            "accepted");
}

}  // namespace
}  // namespace wuneng

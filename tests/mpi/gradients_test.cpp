// Sums of gradients over ranks. Every rank makes all ranks' parameters and gradients, and so knows the sums.
#include "parallel/gradients.h"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>

#include "parallel/weight_gather.h"
#include "tests/mpi/gpus.h"
#include "tests/mpi/pseudo.h"

namespace wuneng {
namespace {

struct Shares {
  std::string name;
  Shape shape;                // of the logical tensor
  std::vector<Range> ranges;  // by tensor-parallel rank
  int shard_dim = 0;
  bool sum_over_tp = true, sum_over_embedding = false, trainable = true, has_gradient = true;
  int64_t row() const { return element_count(shape) / shape[0]; }
};

// `of` parts over n rows that overlap in no regular way: some by one, some wholly inside another's.
std::vector<Range> overlapping(int64_t n, int of) {
  std::vector<Range> out;
  for (int r = 0; r < of; ++r) {
    const Range even = shard_range(n, of, r);
    out.push_back({std::max<int64_t>(0, even.begin - r % 3), std::min(n, even.end + (r + 1) % 3 * 2)});
  }
  return out;
}

std::vector<Range> everywhere(int64_t n, int of) { return std::vector<Range>(of, Range{0, n}); }

// Rank r's gradient of its shard; seeds differ by rank and parameter.
Tensor gradient_of(const Shares& s, int parameter, int rank, int tp_rank) {
  Shape local = s.shape;
  local[s.shard_dim] = s.ranges[tp_rank].size();
  return pseudo_tensor(local, 1000 * parameter + rank);
}

std::deque<Parameter> make_parameters(const std::vector<Shares>& all, int rank, int tp_rank,
                                      Device device = {}) {
  std::deque<Parameter> out;
  for (size_t i = 0; i < all.size(); ++i) {
    const Shares& s = all[i];
    Parameter& p = out.emplace_back();
    p.name = s.name;
    p.global_shape = s.shape;
    p.shard_dim = s.shard_dim;
    p.held = p.owned = s.ranges[tp_rank];
    if (tp_rank > 0) {  // what no lower rank holds; ranges here rise with the rank
      int64_t taken = 0;
      for (int r = 0; r < tp_rank; ++r) taken = std::max(taken, s.ranges[r].end);
      p.owned.begin = std::min(p.owned.end, std::max(p.owned.begin, taken));
    }
    p.sum_over_tp = s.sum_over_tp;
    p.sum_over_embedding = s.sum_over_embedding;
    p.trainable = s.trainable;
    p.var = Var(Tensor::zeros(p.local_shape(), DType::f32, device), true);
    if (s.has_gradient) p.var.set_grad(gradient_of(s, static_cast<int>(i), rank, tp_rank).to(device));
  }
  return out;
}

Parameters pointers(std::deque<Parameter>& all) {
  Parameters out;
  for (Parameter& p : all) out.push_back(&p);
  return out;
}

std::vector<ParameterPart> parts(const std::deque<Parameter>& all) {
  std::vector<ParameterPart> out;
  for (const Parameter& p : all) out.emplace_back(&p);
  return out;
}

// "large" is more than a bucket, an eighth of all; what is before it and behind it has another each.
std::vector<Shares> mixed_parameters(int of) {
  return {{.name = "overlapping", .shape = {13, 5}, .ranges = overlapping(13, of)},
          {.name = "norm", .shape = {7}, .ranges = everywhere(7, of)},
          {.name = "frozen", .shape = {9}, .ranges = everywhere(9, of), .trainable = false},
          {.name = "unused", .shape = {4, 2}, .ranges = overlapping(4, of), .has_gradient = false},
          {.name = "vector", .shape = {11}, .ranges = overlapping(11, of)},
          {.name = "large", .shape = {90, 10}, .ranges = everywhere(90, of)},
          {.name = "after", .shape = {12, 3}, .ranges = overlapping(12, of)}};
}

// On the CPU and on a GPU.
class GradientsMpi : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam().kind == DeviceKind::cuda && cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  }

  static Device device() { return of_this_rank(GetParam()); }
  static double norm_of(const Tensor& squares) { return std::sqrt(squares.to(Device{}).data<double>()[0]); }

  // What a rank has of sums that the data-parallel ranks share.
  struct Shared {
    std::vector<ParameterPart> parts;
    std::vector<Tensor> sums;
    double norm;
  };
  static Shared sum_shares(std::deque<Parameter>& own, const GradientGroups& groups) {
    GradientSums shares(pointers(own), groups, SumOverDp::share);
    shares.finish();
    Shared out{shares.updates(), {}, norm_of(shares.squared_norm())};
    for (const ParameterPart& part : out.parts) {
      const Tensor sum = part.of(part.parameter->var.grad());
      out.sums.push_back(sum.clone());
      sum.zero();
    }
    for (const Parameter& p : own) {
      if (!p.trainable) continue;
      const Tensor rest = p.var.grad().to(Device{});
      for (int64_t e = 0; e < rest.numel(); ++e)
        EXPECT_EQ(rest.f32()[e], 0) << p.name << ", not of this rank";
    }
    return out;
  }

  // They are those of whole sums, to the bit where communication is through the host.
  static void check_shares(const Shared& shared, const GradientSums& whole) {
    const double bound = GetParam().kind == DeviceKind::cpu ? 0 : 1e-6;
    EXPECT_NEAR(shared.norm, norm_of(whole.squared_norm()), bound);
    for (size_t i = 0; i < shared.parts.size(); ++i) {
      const ParameterPart& part = shared.parts[i];
      const Tensor found = shared.sums[i].to(Device{}),
                   expected = part.of(part.parameter->var.grad()).to(Device{});
      for (int64_t e = 0; e < found.numel(); ++e)
        ASSERT_NEAR(found.f32()[e], expected.f32()[e], bound) << part.parameter->name;
    }
  }

  // The sums of the gradients that are there; and again in a second step, where a backward pass adds to one
  // gradient after the other, from the last, and sums begin meanwhile: the same bits.
  static void sum(std::deque<Parameter>& own, const GradientGroups& groups) {
    for (const Comm* group : {&groups.tp, &groups.dp, &groups.embedding}) group->connect(device());
    std::vector<Tensor> given, once;
    for (const Parameter& p : own) given.push_back(p.var.has_grad() ? p.var.grad().clone() : Tensor());
    const Shared shared = sum_shares(own, groups);
    for (size_t i = 0; i < own.size(); ++i)
      given[i].defined() ? own[i].var.set_grad(given[i].clone()) : own[i].var.drop_grad();
    GradientSums sums(pointers(own), groups);
    sums.finish();
    check_shares(shared, sums);
    for (const Parameter& p : own) {
      once.push_back(p.trainable ? p.var.grad().clone() : Tensor());
      if (p.trainable) p.var.grad().zero();
    }
    for (size_t i = own.size(); i-- > 0;) {
      if (own[i].trainable && given[i].defined()) own[i].var.grad().add(given[i]);
      // Embeddings on both ends: the last stage's is complete long before the first's.
      if (!own[i].sum_over_embedding || groups.embedding.rank() > 0) sums.complete_from(&own[i]);
    }
    groups.embedding.all_reduce(1.0, Reduce::sum, "the last stage's gradient, say");
    sums.finish();
    for (size_t i = 0; i < own.size(); ++i)
      EXPECT_TRUE(!own[i].trainable || same_bits(own[i].var.grad(), once[i])) << own[i].name;
  }
};

TEST_P(GradientsMpi, SharesOverTpAreSummedOverTheHoldersOfEachElement) {
  const Comm tp = Comm::world();
  const int of = tp.size();
  const auto all = mixed_parameters(of);
  auto own = make_parameters(all, tp.rank(), tp.rank(), device());
  sum(own, {.tp = tp});
  for (size_t i = 0; i < all.size(); ++i) {
    const Shares& s = all[i];
    const Range held = s.ranges[tp.rank()];
    std::vector<double> sum(held.size() * s.row());
    for (int r = 0; r < of; ++r) {
      if (!s.has_gradient || (!s.trainable && r != tp.rank())) continue;
      const Tensor g = gradient_of(s, static_cast<int>(i), r, r);
      for (int64_t row = std::max(held.begin, s.ranges[r].begin); row < std::min(held.end, s.ranges[r].end);
           ++row)
        for (int64_t c = 0; c < s.row(); ++c)
          sum[(row - held.begin) * s.row() + c] += g.f32()[(row - s.ranges[r].begin) * s.row() + c];
    }
    ASSERT_TRUE(own[i].var.has_grad()) << s.name;
    const Tensor found = own[i].var.grad().to(Device{});
    double worst = 0;
    for (size_t e = 0; e < sum.size(); ++e) worst = std::max(worst, std::abs(found.f32()[e] - sum[e]));
    EXPECT_LT(worst, 1e-6) << s.name;
  }
}

TEST_P(GradientsMpi, CutsWithoutSharesStayAsTheyAre) {
  const Comm tp = Comm::world();
  std::vector<Range> even;
  for (int r = 0; r < tp.size(); ++r) even.push_back(shard_range(8, tp.size(), r));
  const std::vector<Shares> all = {
      {.name = "rows", .shape = {8, 3}, .ranges = even, .sum_over_tp = false},
      {.name = "columns", .shape = {3, 8}, .ranges = even, .shard_dim = 1, .sum_over_tp = false}};
  auto own = make_parameters(all, tp.rank(), tp.rank(), device());
  sum(own, {.tp = tp});
  for (size_t i = 0; i < all.size(); ++i)
    EXPECT_TRUE(same_bits(own[i].var.grad(), gradient_of(all[i], static_cast<int>(i), tp.rank(), tp.rank())));
}

TEST_P(GradientsMpi, DataParallelRanksGetOneSum) {
  const Comm dp = Comm::world();
  auto all = mixed_parameters(1);
  for (Shares& s : all) s.sum_over_tp = false;
  auto own = make_parameters(all, dp.rank(), 0, device());
  sum(own, {.dp = dp});
  for (size_t i = 0; i < all.size(); ++i) {
    if (!all[i].trainable) continue;
    const Tensor g = own[i].var.grad().to(Device{});
    std::vector<double> sum(g.numel());
    for (int r = 0; r < dp.size() && all[i].has_gradient; ++r) {
      const Tensor other = gradient_of(all[i], static_cast<int>(i), r, 0);
      for (int64_t e = 0; e < g.numel(); ++e) sum[e] += other.f32()[e];
    }
    double worst = 0;
    for (int64_t e = 0; e < g.numel(); ++e) worst = std::max(worst, std::abs(g.f32()[e] - sum[e]));
    EXPECT_LT(worst, 1e-6) << all[i].name;
    const Tensor first = g.clone();
    dp.broadcast(first, 0, "the first replica's gradient");
    EXPECT_TRUE(same_bits(first, g)) << all[i].name;
  }
}

TEST_P(GradientsMpi, OnlyTheTiedEmbeddingIsSummedOverTheEnds) {
  const Comm world = Comm::world();
  const bool end = world.rank() == 0 || world.rank() == world.size() - 1;
  const Comm embedding = world.split(end ? 0 : -1, world.rank(), "embedding");
  std::vector<Shares> all;
  if (end)
    all.push_back({.name = "embedding",
                   .shape = {5, 4},
                   .ranges = {{0, 5}},
                   .sum_over_tp = false,
                   .sum_over_embedding = true});
  all.push_back({.name = "other", .shape = {6}, .ranges = {{0, 6}}, .sum_over_tp = false});
  auto own = make_parameters(all, world.rank(), 0, device());
  sum(own, {.embedding = embedding});
  const int last = static_cast<int>(all.size()) - 1;
  EXPECT_TRUE(same_bits(own[last].var.grad(), gradient_of(all[last], last, world.rank(), 0)));
  if (!end) return;
  const Tensor found = own[0].var.grad().to(Device{}), a = gradient_of(all[0], 0, 0, 0),
               b = gradient_of(all[0], 0, world.size() - 1, 0);
  for (int64_t e = 0; e < 20; ++e)
    EXPECT_EQ(found.f32()[e], world.size() == 1 ? a.f32()[e] : a.f32()[e] + b.f32()[e]);
}

TEST_P(GradientsMpi, NormCountsEachElementOnceAndIsTheSameOnAllRanks) {
  const Comm world = Comm::world();
  const int of = world.size();
  // As tensor-parallel ranks: the whole tensor's norm, however the ranges overlap.
  const std::vector<Shares> all = {{.name = "overlapping", .shape = {13, 5}, .ranges = overlapping(13, of)},
                                   {.name = "norm", .shape = {7}, .ranges = everywhere(7, of)}};
  auto own = make_parameters(all, world.rank(), world.rank(), device());
  double expected = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const Tensor logical = pseudo_tensor(all[i].shape, 77 + static_cast<int64_t>(i));
    for (int64_t e = 0; e < logical.numel(); ++e) expected += double(logical.f32()[e]) * logical.f32()[e];
    own[i].var.set_grad(logical.rows(own[i].held.begin, own[i].held.end).clone().to(device()));
  }
  const double norm = norm_of(squared_gradient_norm(parts(own), {.tp = world}, device()));
  EXPECT_NEAR(norm, std::sqrt(expected), 1e-12);
  EXPECT_EQ(world.all_reduce(norm, Reduce::max, "largest norm"),
            world.all_reduce(norm, Reduce::min, "smallest norm"));

  // As pipeline stages: every stage has its own parameters.
  const std::vector<Shares> stage = {{.name = "own", .shape = {20}, .ranges = {{0, 20}}}};
  auto stage_own = make_parameters(stage, world.rank(), 0, device());
  expected = 0;
  for (int r = 0; r < of; ++r) {
    const Tensor g = gradient_of(stage[0], 0, r, 0);
    for (int64_t e = 0; e < 20; ++e) expected += double(g.f32()[e]) * g.f32()[e];
  }
  EXPECT_NEAR(norm_of(squared_gradient_norm(parts(stage_own), {.pp = world}, device())), std::sqrt(expected),
              1e-12);
}

// dp and tp at a time, several gradients in flight of both.
TEST_P(GradientsMpi, SharesThenReplicas) {
  const Comm world = Comm::world();
  if (world.size() != 4) GTEST_SKIP() << "needs 4 ranks";
  const int tp_rank = world.rank() % 2;
  const Comm tp = world.split(world.rank() / 2, tp_rank, "tp"), dp = world.split(tp_rank, world.rank(), "dp");
  const auto all = mixed_parameters(2);
  auto own = make_parameters(all, world.rank(), tp_rank, device());
  sum(own, {.tp = tp, .dp = dp});
  for (size_t i = 0; i < all.size(); ++i) {
    const Shares& s = all[i];
    if (!s.trainable) continue;
    const Tensor found = own[i].var.grad().to(Device{});
    std::vector<double> sum(found.numel());
    for (int r = 0; r < 4 && s.has_gradient; ++r) {
      const Range held = s.ranges[tp_rank], theirs = s.ranges[r % 2];
      const Tensor g = gradient_of(s, static_cast<int>(i), r, r % 2);
      for (int64_t row = std::max(held.begin, theirs.begin); row < std::min(held.end, theirs.end); ++row)
        for (int64_t c = 0; c < s.row(); ++c)
          sum[(row - held.begin) * s.row() + c] += g.f32()[(row - theirs.begin) * s.row() + c];
    }
    double worst = 0;
    for (size_t e = 0; e < sum.size(); ++e) worst = std::max(worst, std::abs(found.f32()[e] - sum[e]));
    EXPECT_LT(worst, 1e-6) << s.name;
  }
}

TEST_P(GradientsMpi, WeightsOfSharesAreGathered) {
  const Comm dp = Comm::world();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    auto own = make_parameters(mixed_parameters(1), 0, 0, device());
    for (Parameter& p : own)
      p.var = Var(pseudo_tensor(p.global_shape, 5).to(device()).to(dtype), p.trainable, DType::f32);
    const GradientSums sums(pointers(own), {.dp = dp}, SumOverDp::share);
    const WeightGather gather(sums.buckets(), dp);
    // Each rank moves its share by one; the others' stay.
    for (const ParameterPart& part : sums.updates()) {
      const Tensor mine = part.of(part.parameter->var.value());
      const Tensor moved = mine.to(Device{}).to(DType::f32).clone();
      for (int64_t e = 0; e < moved.numel(); ++e) moved.f32()[e] += 1;
      mine.copy_from(moved);
    }
    gather.run();
    for (const Parameter& p : own) {
      const Tensor start = pseudo_tensor(p.global_shape, 5).to(dtype).to(DType::f32),
                   expected = start.clone(), found = p.var.value().to(Device{});
      for (int64_t e = 0; e < expected.numel(); ++e) expected.f32()[e] += p.trainable ? 1.0f : 0.0f;
      EXPECT_TRUE(same_bits(found, expected.to(dtype))) << p.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, GradientsMpi, testing::Values(Device{}, Device{DeviceKind::cuda, 0}),
                         [](const auto& info) { return std::string(info.index == 0 ? "cpu" : "cuda"); });

}  // namespace
}  // namespace wuneng

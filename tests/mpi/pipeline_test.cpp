// The pipeline engine and gradient synchronisation on all ranks that this test was started with (1 to 4 are
// of use): a pipeline of toy layers against the same layers on one rank, and summed gradients against sums by
// hand.
#include "parallel/pipeline.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>

#include "parallel/gradients.h"
#include "parallel/mesh.h"

namespace wuneng {
namespace {

constexpr int64_t kHidden = 6;
constexpr int kLayers = 4, kMicroBatches = 5;

int64_t rows_of(int m) { return 3 + m % 3; }  // lengths differ, as packed batches of a variable size would

// A number in [-1, 1] that depends on its arguments alone, so that all ranks know each other's data.
float pseudo(int64_t a, int64_t b) {
  const uint64_t x = (static_cast<uint64_t>(a) * 1000003 + b + 1) * 0x9e3779b97f4a7c15u;
  return static_cast<float>((x ^ (x >> 29)) >> 40) / (1 << 23) - 1;
}

Tensor pseudo_tensor(Shape shape, int64_t seed) {
  const Tensor t = Tensor::empty(std::move(shape));
  for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = pseudo(seed, i);
  return t;
}

// y = tanh(x w), x [T, d], w [d, d].
Var layer(Tape& tape, const Var& x, const Var& w) {
  const int64_t rows = x.dim(0), d = kHidden;
  const Tensor value = Tensor::zeros({rows, d});
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < d; ++j) {
      float sum = 0;
      for (int64_t i = 0; i < d; ++i) sum += x.value().f32()[r * d + i] * w.value().f32()[i * d + j];
      value.f32()[r * d + j] = std::tanh(sum);
    }
  const Var y = tape.output(value, tape.wants(x, w));
  const auto before_tanh = [y](int64_t at) {  // the gradient of x w
    const float v = y.value().f32()[at];
    return y.grad().f32()[at] * (1 - v * v);
  };
  tape.record(
      y,
      [=] {
        if (!x.needs_grad()) return;
        float* dx = x.grad_buffer().f32();
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < d; ++i)
            for (int64_t j = 0; j < d; ++j)
              dx[r * d + i] += before_tanh(r * d + j) * w.value().f32()[i * d + j];
      },
      [=] {
        float* dw = w.grad_buffer().f32();
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < d; ++i)
            for (int64_t j = 0; j < d; ++j)
              dw[i * d + j] += x.value().f32()[r * d + i] * before_tanh(r * d + j);
      });
  return y;
}

// loss [1] = half the sum of squares of h [T, d].
Var half_square(Tape& tape, const Var& h) {
  float sum = 0;
  for (int64_t i = 0; i < h.value().numel(); ++i) sum += h.value().f32()[i] * h.value().f32()[i];
  const Var loss = tape.output(Tensor::from<float>({sum / 2}, {1}), tape.wants(h));
  tape.record(loss, [=] {
    float* dh = h.grad_buffer().f32();
    for (int64_t i = 0; i < h.value().numel(); ++i) dh[i] += loss.grad().f32()[0] * h.value().f32()[i];
  });
  return loss;
}

// The toy model's layers [begin, end) on the ranks of `pp`: losses (last stage) and gradients of the own
// layers.
struct Toy {
  Range mine;
  std::vector<Var> weights;  // [d, d] each
  std::vector<float> losses = std::vector<float>(kMicroBatches, 0.0f);
  std::vector<int> done;

  explicit Toy(const Comm& pp) : mine(cut(kLayers, pp.size(), pp.rank())) {
    for (int64_t l = mine.begin; l < mine.end; ++l)
      weights.emplace_back(pseudo_tensor({kHidden, kHidden}, l), true);
  }

  void run(const Comm& pp, bool train) {
    const Pipeline pipeline(pp, kHidden);
    const auto make = train ? one_f_one_b : forward_only;
    pipeline.run(
        make(pp.size(), pp.rank(), kMicroBatches),
        {.rows = rows_of,
         .forward =
             [&](Tape& tape, int m, const Var& hidden) {
               EXPECT_EQ(tape.recording(), train);
               EXPECT_EQ(hidden.defined(), !pipeline.first_stage());
               Var h = hidden.defined() ? hidden : Var(pseudo_tensor({rows_of(m), kHidden}, 100 + m));
               EXPECT_EQ(h.shape(), (Shape{rows_of(m), kHidden}));
               for (const Var& w : weights) h = layer(tape, h, w);
               if (!pipeline.last_stage()) return h;
               const Var loss = half_square(tape, h);
               losses[m] = loss.value().f32()[0];
               return loss;
             },
         .train = train,
         .forward_done = [&](int m) { done.push_back(m); }});
  }
};

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

TEST(PipelineMpi, AgreesWithOneRankToTheBit) {
  const Comm pp = Comm::world();
  ASSERT_LE(pp.size(), kLayers);
  Toy alone{Comm()}, split(pp);
  alone.run(Comm(), true);
  split.run(pp, true);
  for (size_t i = 0; i < split.weights.size(); ++i) {
    ASSERT_TRUE(split.weights[i].has_grad());
    EXPECT_TRUE(same_bits(split.weights[i].grad(), alone.weights[split.mine.begin + i].grad()))
        << "layer " << i;
  }
  EXPECT_TRUE(pp.rank() < pp.size() - 1 || split.losses == alone.losses);
  EXPECT_EQ(split.done, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(PipelineMpi, GradientIsTheDerivative) {  // so that "agrees with one rank" does not mean "wrong alike"
  Toy toy{Comm()};
  toy.run(Comm(), true);
  const auto total = [](float change) {
    Toy moved{Comm()};
    moved.weights[1].value().f32()[7] += change;
    moved.run(Comm(), false);
    double sum = 0;
    for (float l : moved.losses) sum += l;
    return sum;
  };
  const double step = 1e-2;
  EXPECT_NEAR(toy.weights[1].grad().f32()[7], (total(step) - total(-step)) / (2 * step), 2e-3);
  EXPECT_GT(std::abs(toy.weights[1].grad().f32()[7]), 2e-2);
}

TEST(PipelineMpi, ForwardOnlyGivesTheSameLossesAndNoGradients) {
  const Comm pp = Comm::world();
  Toy alone{Comm()}, split(pp);
  alone.run(Comm(), true);
  split.run(pp, false);
  EXPECT_TRUE(pp.rank() < pp.size() - 1 || split.losses == alone.losses);
  for (const Var& w : split.weights) EXPECT_FALSE(w.has_grad());
}

TEST(PipelineMpi, NothingIsHeldAfterARun) {
  const Comm pp = Comm::world();
  Toy toy(pp);
  toy.run(pp, true);  // gradients exist from here on
  pp.barrier("first run over");
  const int64_t before = memory_use(DeviceKind::cpu).current;
  toy.run(pp, true);
  toy.run(pp, false);
  EXPECT_EQ(memory_use(DeviceKind::cpu).current, before);
}

// Messages too large for MPI to buffer: with blocking sends, a stage that sends an activation down and one
// that sends a gradient up would wait for each other.
void run_with_large_messages(const Comm& pp, Device device) {
  constexpr int64_t kWide = 1 << 18;  // 1 MB a row
  int backwards = 0;
  const auto here = [&](int64_t seed) { return pseudo_tensor({1, kWide}, seed).to(device); };
  const auto forward = [&](Tape& tape, int m, const Var& hidden) {
    const Var x = hidden.defined() ? hidden : Var(here(m), true);
    const Var y = tape.output(pp.rank() < pp.size() - 1 ? x.value().clone() : Tensor::zeros({1}), true);
    tape.record(y, [=, &backwards] {
      ++backwards;
      x.add_grad(y.grad().numel() == kWide ? y.grad() : here(50 + m));
      EXPECT_TRUE(same_bits(x.value().to(Device{}), pseudo_tensor({1, kWide}, m)));
      EXPECT_TRUE(same_bits(x.grad().to(Device{}), pseudo_tensor({1, kWide}, 50 + m)));
    });
    return y;
  };
  const PipelineWork work{.rows = [](int) { return 1; }, .forward = forward, .train = true};
  Pipeline(pp, kWide, compute_stream(device)).run(one_f_one_b(pp.size(), pp.rank(), kMicroBatches), work);
  EXPECT_EQ(backwards, kMicroBatches);
}

TEST(PipelineMpi, LargeMessagesDoNotWaitForEachOther) { run_with_large_messages(Comm::world(), {}); }

TEST(PipelineMpi, OnAGpuByNcclAndThroughTheHost) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  const Device gpu{DeviceKind::cuda, 0};
  const Comm world = Comm::world();
  const Mesh mesh = Mesh::make(world, {1, world.size(), 1}, {});
  mesh.connect(gpu, true);
  for (int run = 0; run < 2; ++run) run_with_large_messages(mesh.pp, gpu);
  if (std::getenv("WUNENG_EMULATOR_GPU_PER_RANK")) {
    EXPECT_EQ(locked_bytes(), 0) << "some messages went through the host";
  }
  run_with_large_messages(world, gpu);
  EXPECT_EQ(locked_bytes() > 0, world.size() > 1);
}

TEST(PipelineMpi, WrongShapesAreRefusedByName) {
  const auto message = [](const Schedule& schedule, const PipelineWork& work) -> std::string {
    try {
      Pipeline(Comm(), kHidden).run(schedule, work);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  const auto no_loss = [](Tape&, int, const Var&) { return Var(Tensor::zeros({2, 3}), true); };
  EXPECT_NE(message(one_f_one_b(1, 0, 1), {.rows = rows_of, .forward = no_loss, .train = true})
                .find("expected a loss [1], found [2, 3]"),
            std::string::npos);
  EXPECT_NE(message({{Action::forward, 0}, {Action::send_activation, 0}},
                    {.rows = rows_of, .forward = no_loss, .train = true})
                .find("expected f32[3, 6], found f32[2, 3]"),
            std::string::npos);
}

// Gradient synchronisation. Every rank makes all ranks' parameters and gradients, and so knows the sum.

struct Shares {
  std::string name;
  Shape shape;                // of the logical tensor
  std::vector<Range> ranges;  // by tensor-parallel rank
  int cut_dim = 0;
  bool sum_over_tp = true, sum_over_embedding = false, trainable = true, has_gradient = true;
  int64_t row() const { return element_count(shape) / shape[0]; }
};

// `of` parts over n rows that overlap in no regular way: some by one, some wholly inside another's.
std::vector<Range> overlapping(int64_t n, int of) {
  std::vector<Range> out;
  for (int r = 0; r < of; ++r) {
    const Range even = cut(n, of, r);
    out.push_back({std::max<int64_t>(0, even.begin - r % 3), std::min(n, even.end + (r + 1) % 3 * 2)});
  }
  return out;
}

std::vector<Range> everywhere(int64_t n, int of) { return std::vector<Range>(of, Range{0, n}); }

// Rank r's gradient of its shard; seeds differ by rank and parameter.
Tensor gradient_of(const Shares& s, int parameter, int rank, int tp_rank) {
  Shape local = s.shape;
  local[s.cut_dim] = s.ranges[tp_rank].size();
  return pseudo_tensor(local, 1000 * parameter + rank);
}

std::deque<Parameter> make_parameters(const std::vector<Shares>& all, int rank, int tp_rank) {
  std::deque<Parameter> out;
  for (size_t i = 0; i < all.size(); ++i) {
    const Shares& s = all[i];
    Parameter& p = out.emplace_back();
    p.name = s.name;
    p.global_shape = s.shape;
    p.cut_dim = s.cut_dim;
    p.held = p.owned = s.ranges[tp_rank];
    if (tp_rank > 0) {  // what no lower rank holds; ranges here rise with the rank
      int64_t taken = 0;
      for (int r = 0; r < tp_rank; ++r) taken = std::max(taken, s.ranges[r].end);
      p.owned.begin = std::min(p.owned.end, std::max(p.owned.begin, taken));
    }
    p.sum_over_tp = s.sum_over_tp;
    p.sum_over_embedding = s.sum_over_embedding;
    p.trainable = s.trainable;
    p.var = Var(Tensor::zeros(p.local_shape()), true);
    if (s.has_gradient) p.var.set_grad(gradient_of(s, static_cast<int>(i), rank, tp_rank));
  }
  return out;
}

Parameters pointers(std::deque<Parameter>& all) {
  Parameters out;
  for (Parameter& p : all) out.push_back(&p);
  return out;
}

// "large" is more than a bucket and summed in place; "after" is packed into a bucket that was used before.
std::vector<Shares> mixed_parameters(int of) {
  return {{.name = "overlapping", .shape = {13, 5}, .ranges = overlapping(13, of)},
          {.name = "norm", .shape = {7}, .ranges = everywhere(7, of)},
          {.name = "frozen", .shape = {9}, .ranges = everywhere(9, of), .trainable = false},
          {.name = "unused", .shape = {4, 2}, .ranges = overlapping(4, of), .has_gradient = false},
          {.name = "vector", .shape = {11}, .ranges = overlapping(11, of)},
          {.name = "large", .shape = {9000, 1000}, .ranges = everywhere(9000, of)},
          {.name = "after", .shape = {12, 3}, .ranges = overlapping(12, of)}};
}

TEST(GradientsMpi, SharesOverTpAreSummedOverTheHoldersOfEachElement) {
  const Comm tp = Comm::world();
  const int of = tp.size();
  const auto all = mixed_parameters(of);
  auto own = make_parameters(all, tp.rank(), tp.rank());
  synchronize_gradients(pointers(own), {.tp = tp});
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
    double worst = 0;
    for (size_t e = 0; e < sum.size(); ++e)
      worst = std::max(worst, std::abs(own[i].var.grad().f32()[e] - sum[e]));
    EXPECT_LT(worst, 1e-6) << s.name;
  }
}

TEST(GradientsMpi, CutsWithoutSharesStayAsTheyAre) {
  const Comm tp = Comm::world();
  std::vector<Range> even;
  for (int r = 0; r < tp.size(); ++r) even.push_back(cut(8, tp.size(), r));
  const std::vector<Shares> all = {
      {.name = "rows", .shape = {8, 3}, .ranges = even, .sum_over_tp = false},
      {.name = "columns", .shape = {3, 8}, .ranges = even, .cut_dim = 1, .sum_over_tp = false}};
  auto own = make_parameters(all, tp.rank(), tp.rank());
  synchronize_gradients(pointers(own), {.tp = tp});
  for (size_t i = 0; i < all.size(); ++i)
    EXPECT_TRUE(same_bits(own[i].var.grad(), gradient_of(all[i], static_cast<int>(i), tp.rank(), tp.rank())));
}

TEST(GradientsMpi, DataParallelRanksGetOneSum) {
  const Comm dp = Comm::world();
  auto all = mixed_parameters(1);
  for (Shares& s : all) s.sum_over_tp = false;
  auto own = make_parameters(all, dp.rank(), 0);
  synchronize_gradients(pointers(own), {.dp = dp});
  for (size_t i = 0; i < all.size(); ++i) {
    if (!all[i].trainable) continue;
    const Tensor& g = own[i].var.grad();
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

TEST(GradientsMpi, OnlyTheTiedEmbeddingIsSummedOverTheEnds) {
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
  auto own = make_parameters(all, world.rank(), 0);
  synchronize_gradients(pointers(own), {.embedding = embedding});
  const int last = static_cast<int>(all.size()) - 1;
  EXPECT_TRUE(same_bits(own[last].var.grad(), gradient_of(all[last], last, world.rank(), 0)));
  if (!end) return;
  const Tensor a = gradient_of(all[0], 0, 0, 0), b = gradient_of(all[0], 0, world.size() - 1, 0);
  for (int64_t e = 0; e < 20; ++e)
    EXPECT_EQ(own[0].var.grad().f32()[e], world.size() == 1 ? a.f32()[e] : a.f32()[e] + b.f32()[e]);
}

TEST(GradientsMpi, NormCountsEachElementOnceAndIsTheSameOnAllRanks) {
  const Comm world = Comm::world();
  const int of = world.size();
  // As tensor-parallel ranks: the whole tensor's norm, however the ranges overlap.
  const std::vector<Shares> all = {{.name = "overlapping", .shape = {13, 5}, .ranges = overlapping(13, of)},
                                   {.name = "norm", .shape = {7}, .ranges = everywhere(7, of)}};
  auto own = make_parameters(all, world.rank(), world.rank());
  double expected = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const Tensor logical = pseudo_tensor(all[i].shape, 77 + static_cast<int64_t>(i));
    for (int64_t e = 0; e < logical.numel(); ++e) expected += double(logical.f32()[e]) * logical.f32()[e];
    own[i].var.set_grad(logical.rows(own[i].held.begin, own[i].held.end).clone());
  }
  const double norm = gradient_norm(pointers(own), {.tp = world});
  EXPECT_NEAR(norm, std::sqrt(expected), 1e-12);
  EXPECT_EQ(world.all_reduce(norm, Reduce::max, "largest norm"),
            world.all_reduce(norm, Reduce::min, "smallest norm"));

  // As pipeline stages: every stage has its own parameters.
  const std::vector<Shares> stage = {{.name = "own", .shape = {20}, .ranges = {{0, 20}}}};
  auto stage_own = make_parameters(stage, world.rank(), 0);
  expected = 0;
  for (int r = 0; r < of; ++r) {
    const Tensor g = gradient_of(stage[0], 0, r, 0);
    for (int64_t e = 0; e < 20; ++e) expected += double(g.f32()[e]) * g.f32()[e];
  }
  EXPECT_NEAR(gradient_norm(pointers(stage_own), {.pp = world}), std::sqrt(expected), 1e-12);
}

}  // namespace
}  // namespace wuneng

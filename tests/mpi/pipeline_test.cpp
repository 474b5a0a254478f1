// The pipeline engine on all ranks that this test was started with (1 to 4 are of use): a pipeline of toy
// layers against the same layers on one rank.
#include "parallel/pipeline.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "parallel/mesh.h"
#include "parallel/parameter.h"
#include "tests/mpi/gpus.h"
#include "tests/mpi/pseudo.h"

namespace wuneng {
namespace {

constexpr int64_t kHidden = 6;
constexpr int kLayers = 4, kMicroBatches = 5;

int64_t rows_of(int m) { return 3 + m % 3; }  // lengths differ, as packed batches of a variable size would

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

  explicit Toy(const Comm& pp) : mine(shard_range(kLayers, pp.size(), pp.rank())) {
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
      EXPECT_TRUE(same_bits(x.value(), pseudo_tensor({1, kWide}, m)));
      EXPECT_TRUE(same_bits(x.grad(), pseudo_tensor({1, kWide}, 50 + m)));
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
  const Device gpu = of_this_rank({DeviceKind::cuda, 0});
  const Comm world = Comm::world();
  const Mesh mesh = Mesh::make(world, {1, world.size(), 1}, {});
  mesh.connect(gpu, true);
  for (int run = 0; run < 2; ++run) run_with_large_messages(mesh.pp, gpu);
  if (gpus_of_their_own()) {
    EXPECT_EQ(pinned_bytes(), 0) << "some messages went through the host";
  }
  run_with_large_messages(world, gpu);
  EXPECT_EQ(pinned_bytes() > 0, world.size() > 1);
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

}  // namespace
}  // namespace wuneng

// The pipeline engine on all ranks that this test was started with (1 to 4 are of use): a pipeline of toy
// layers against the same layers on one rank.
#include "parallel/pipeline.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>

#include "parallel/mesh.h"
#include "parallel/parameter.h"
#include "parallel/schedule_validator.h"
#include "tests/mpi/gpus.h"
#include "tests/mpi/pseudo.h"

namespace wuneng {
namespace {

constexpr int64_t kHidden = 6;
constexpr int kLayers = 8, kMicroBatches = 5;

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
  const Tensor input = x.value();
  const auto before_tanh = [value](const Tensor& dy, int64_t at) {  // the gradient of x w
    const float v = value.f32()[at];
    return dy.f32()[at] * (1 - v * v);
  };
  tape.record(
      y,
      [=] {
        if (!x.needs_grad()) return;
        float* dx = x.grad_buffer().f32();
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < d; ++i)
            for (int64_t j = 0; j < d; ++j)
              dx[r * d + i] += before_tanh(y.grad(), r * d + j) * w.value().f32()[i * d + j];
      },
      [=](const Tensor& dy) {
        float* dw = w.grad_buffer().f32();
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < d; ++i)
            for (int64_t j = 0; j < d; ++j)
              dw[i * d + j] += input.f32()[r * d + i] * before_tanh(dy, r * d + j);
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

// x [T, d] -> [T, 2].
Var first_channels(Tape& tape, const Var& x) {
  const int64_t rows = x.dim(0);
  const Tensor value = Tensor::empty({rows, 2});
  for (int64_t i = 0; i < 2 * rows; ++i) value.f32()[i] = x.value().f32()[i / 2 * kHidden + i % 2];
  const Var y = tape.output(value, tape.wants(x));
  tape.record(y, [=] {
    for (int64_t i = 0; i < 2 * rows; ++i)
      x.grad_buffer().f32()[i / 2 * kHidden + i % 2] += y.grad().f32()[i];
  });
  return y;
}

// x [T, d] + first [T, 2] in its first channels.
Var add_to_first_channels(Tape& tape, const Var& x, const Var& first) {
  const int64_t rows = x.dim(0);
  const Tensor value = x.value().clone();
  for (int64_t i = 0; i < 2 * rows; ++i) value.f32()[i / 2 * kHidden + i % 2] += first.value().f32()[i];
  const Var y = tape.output(value, tape.wants(x, first));
  tape.record(y, [=] {
    x.add_grad(y.grad().clone());
    for (int64_t i = 0; i < 2 * rows; ++i)
      first.grad_buffer().f32()[i] += y.grad().f32()[i / 2 * kHidden + i % 2];
  });
  return y;
}

// What the ranks of `pp` hold of the toy model, its layers split over virtual stages, and what a run gives.
struct Toy {
  Comm pp;
  VirtualStages on;
  std::map<int64_t, Var> weights;  // [d, d] each, by layer
  std::vector<float> losses;       // on the last virtual stage
  // Layer 0 leaves its first channels [T, 2], which every fourth layer adds to its own: "first".
  bool carries = false;

  Toy(const Comm& pp_, const VirtualStages& on_) : pp(pp_), on(on_) {
    for (int chunk = 0; chunk < on.chunks; ++chunk) {
      const Range mine = layers(chunk);
      for (int64_t l = mine.begin; l < mine.end; ++l)
        weights.emplace(l, Var(pseudo_tensor({kHidden, kHidden}, l), true));
    }
  }
  explicit Toy(const Comm& pp_) : Toy(pp_, {pp_.size()}) {}

  std::vector<CarriedTensor> carried_before(int64_t l) const {
    return carries && l > 0 && l < kLayers ? std::vector<CarriedTensor>{{"first", 2}}
                                           : std::vector<CarriedTensor>();
  }
  Range layers(int chunk) const { return shard_range(kLayers, on.count(), on.at(pp.rank(), chunk)); }
  bool has_losses() const { return on.stage_of(on.count() - 1) == pp.rank(); }

  void run(const PipelineSchedule& schedule, int micro_batches = kMicroBatches) {
    losses.assign(micro_batches, 0);
    Pipeline(pp, on, kHidden)
        .run(schedule(on, pp.rank(), micro_batches),
             {.rows = rows_of,
              .forward =
                  [&](Tape& tape, int m, int chunk, const StageState& in) {
                    EXPECT_EQ(tape.recording(), schedule.trains);
                    EXPECT_EQ(in.hidden.defined(), !on.first(pp.rank(), chunk));
                    StageState state = in;
                    Var& h = state.hidden;
                    if (!h.defined()) h = Var(pseudo_tensor({rows_of(m), kHidden}, 100 + m));
                    EXPECT_EQ(h.shape(), (Shape{rows_of(m), kHidden}));
                    const Range mine = layers(chunk);
                    for (int64_t l = mine.begin; l < mine.end; ++l) {
                      h = layer(tape, h, weights.at(l));
                      if (carries && l == 0) state.carried["first"] = first_channels(tape, h);
                      if (carries && l % 4 == 3)
                        h = add_to_first_channels(tape, h, state.carried.at("first"));
                    }
                    if (!on.last(pp.rank(), chunk)) return state;
                    const Var loss = half_square(tape, h);
                    losses[m] = loss.value().f32()[0];
                    return StageState{loss, {}};
                  },
              .train = schedule.trains,
              .carried_in = [&](int chunk) { return carried_before(layers(chunk).begin); },
              .carried_out = [&](int chunk) { return carried_before(layers(chunk).end); }});
  }
};

struct Case {
  const PipelineSchedule& schedule;
  int chunks;
};
class PipelineSchedules : public testing::TestWithParam<Case> {};

TEST_P(PipelineSchedules, AgreeWithOneRankToTheBit) {
  const Comm pp = Comm::world();
  const auto& [schedule, chunks] = GetParam();
  const int micro_batches = kMicroBatches;
  const VirtualStages on{pp.size(), chunks, schedule.placement};
  ASSERT_LE(on.count(), kLayers);
  validate(schedule, on, micro_batches);
  for (const bool carries : {true, false}) {
    SCOPED_TRACE(carries ? "with a carried tensor" : "hidden states alone");
    Toy alone{Comm()}, split(pp, on);
    alone.carries = split.carries = carries;
    alone.run(one_f_one_b, micro_batches);
    split.run(schedule, micro_batches);
    for (const auto& [l, weight] : split.weights) {
      ASSERT_TRUE(weight.has_grad()) << "layer " << l;
      EXPECT_TRUE(same_bits(weight.grad(), alone.weights.at(l).grad())) << "layer " << l;
    }
    EXPECT_TRUE(!split.has_losses() || split.losses == alone.losses);
  }

  Toy alone{Comm()}, forwards(pp, on);
  alone.run(forward_only, micro_batches);
  forwards.run(forward_only, micro_batches);
  EXPECT_TRUE(!forwards.has_losses() || forwards.losses == alone.losses);
  for (const auto& [l, weight] : forwards.weights) EXPECT_FALSE(weight.has_grad()) << "layer " << l;
}

TEST_P(PipelineSchedules, HoldNothingAfterARun) {
  const Comm pp = Comm::world();
  const auto& [schedule, chunks] = GetParam();
  const int micro_batches = kMicroBatches;
  Toy toy(pp, {pp.size(), chunks, schedule.placement});
  toy.run(schedule, micro_batches);  // gradients exist from here on
  pp.barrier("first run over");
  const int64_t before = memory_use(DeviceKind::cpu).current;
  toy.run(schedule, micro_batches);
  toy.run(forward_only, micro_batches);
  EXPECT_EQ(memory_use(DeviceKind::cpu).current, before);
}

INSTANTIATE_TEST_SUITE_P(All, PipelineSchedules,
                         testing::Values(Case{one_f_one_b, 1}, Case{interleaved_1f1b, 1},
                                         Case{interleaved_1f1b, 2}, Case{zb_h1, 1}, Case{zb_v, 2}),
                         [](const auto& info) {
                           return fmt::format("by_{}_{}", info.param.schedule.name, info.param.chunks);
                         });

TEST(PipelineMpi, HalvesRunWhereTheScheduleSays) {
  using enum Action::Kind;
  std::vector<std::string> ran;
  const auto note = [&](const char* what, int m) { ran.push_back(fmt::format("{} {}", what, m)); };
  const auto one_loss = [&](Tape& tape, int m, int, const StageState&) {
    const Var loss = tape.output(Tensor::zeros({1}), true);
    tape.record(
        loss, [=] { note("input", m); }, [=](const Tensor&) { note("weight", m); });
    return StageState{loss, {}};
  };
  Pipeline(Comm(), kHidden)
      .run({{forward, 0},
            {forward, 1},
            {backward_input, 0},
            {backward_input, 1},
            {backward_weight, 1},
            {backward_weight, 0}},
           {.rows = rows_of, .forward = one_loss, .train = true});
  EXPECT_EQ(ran, (std::vector<std::string>{"input 0", "input 1", "weight 1", "weight 0"}));
}

TEST(PipelineMpi, GradientIsTheDerivative) {  // so that "agrees with one rank" does not mean "wrong alike"
  Toy toy{Comm()};
  toy.run(one_f_one_b);
  const auto total = [](float change) {
    Toy moved{Comm()};
    moved.weights.at(1).value().f32()[7] += change;
    moved.run(forward_only);
    double sum = 0;
    for (float l : moved.losses) sum += l;
    return sum;
  };
  const double step = 1e-2;
  EXPECT_NEAR(toy.weights.at(1).grad().f32()[7], (total(step) - total(-step)) / (2 * step), 2e-3);
  EXPECT_GT(std::abs(toy.weights.at(1).grad().f32()[7]), 2e-2);
}

// Messages too large for MPI to buffer: with blocking sends, a stage that sends an activation down and one
// that sends a gradient up would wait for each other.
void run_with_large_messages(const PipelineRanks& ranks, Device device, const PipelineSchedule& schedule,
                             int chunks) {
  constexpr int64_t kWide = 1 << 18;  // 1 MB a row
  const Comm& pp = ranks.activations;
  const int micro_batches = 2 * pp.size();
  const VirtualStages on{pp.size(), chunks, schedule.placement};
  int backwards = 0;
  const auto here = [&](int64_t seed) { return pseudo_tensor({1, kWide}, seed).to(device); };
  const auto forward = [&](Tape& tape, int m, int chunk, const StageState& in) {
    const Var x = in.hidden.defined() ? in.hidden : Var(here(m), true);
    const Var y = tape.output(on.last(pp.rank(), chunk) ? Tensor::zeros({1}) : x.value().clone(), true);
    tape.record(y, [=, &backwards] {
      ++backwards;
      x.add_grad(y.grad().numel() == kWide ? y.grad() : here(50 + m));
      EXPECT_TRUE(same_bits(x.value(), pseudo_tensor({1, kWide}, m)));
      EXPECT_TRUE(same_bits(x.grad(), pseudo_tensor({1, kWide}, 50 + m)));
    });
    return StageState{y, {}};
  };
  const PipelineWork work{.rows = [](int) { return 1; }, .forward = forward, .train = true};
  Pipeline(ranks, on, kWide, compute_stream(device)).run(schedule(on, pp.rank(), micro_batches), work);
  EXPECT_EQ(backwards, micro_batches * chunks);
}

TEST(PipelineMpi, LargeMessagesDoNotWaitForEachOther) {
  run_with_large_messages(Comm::world(), {}, one_f_one_b, 1);
  run_with_large_messages(Comm::world(), {}, interleaved_1f1b, 2);
}

TEST(PipelineMpi, OnAGpuByNcclAndThroughTheHost) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  const Device gpu = of_this_rank({DeviceKind::cuda, 0});
  const Comm world = Comm::world();
  const Mesh mesh = Mesh::make(world, {1, world.size(), 1}, {});
  mesh.connect(gpu, true, {world.size(), 2, VirtualStages::v_shaped});
  for (int run = 0; run < 2; ++run)
    run_with_large_messages({mesh.pp, mesh.pp_gradients}, gpu, one_f_one_b, 1);
  run_with_large_messages({mesh.pp, mesh.pp_gradients}, gpu, zb_v,
                          2);  // both kinds of messages in one direction
  if (gpus_of_their_own()) {
    EXPECT_EQ(pinned_bytes(), 0) << "some messages went through the host";
  }
  run_with_large_messages(world, gpu, one_f_one_b, 1);
  EXPECT_EQ(pinned_bytes() > 0, world.size() > 1);
}

// A run whose forwards give `out`; expects an error that holds `text`, or none where it is empty.
void expect_error(const Schedule& schedule, const Tensor& out, const std::string& text, int chunks = 1,
                  const Comm& pp = {}) {
  const auto forward = [&](Tape& tape, int, int, const StageState&) {
    const Var y = tape.output(out, true);
    tape.record(y, [] {});
    return StageState{y, {}};
  };
  try {
    Pipeline(pp, {pp.size(), chunks}, kHidden)
        .run(schedule, {.rows = rows_of, .forward = forward, .train = true});
  } catch (const Error& error) {
    EXPECT_FALSE(text.empty()) << error.what();
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    return;
  }
  EXPECT_EQ(text, "") << "no error";
}

TEST(PipelineMpi, WrongShapesAreRefusedByName) {
  using enum Action::Kind;
  const Tensor wrong = Tensor::zeros({2, 3});
  expect_error(one_f_one_b({1}, 0, 1), wrong, "expected a loss [1], found [2, 3]");
  expect_error({{forward, 0, 0}, {forward, 0, 1}}, wrong,
               "activation of micro-batch 0 to stage 0: expected f32[3, 6], found f32[2, 3]", 2);
  const Comm world = Comm::world();
  if (world.size() > 1 && world.rank() == 0)  // it is refused before it is sent
    expect_error({{forward, 0}, {send_activation, 0}}, wrong,
                 "activation of micro-batch 0 to stage 1: expected f32[3, 6], found f32[2, 3]", 1, world);
}

TEST(PipelineMpi, ActionsOutOfOrderAreRefusedByName) {
  using enum Action::Kind;
  const Tensor loss = Tensor::zeros({1}), hidden = Tensor::zeros({3, kHidden});
  expect_error({{forward, 0}, {backward_input, 0}, {backward_weight, 0}}, loss, "");
  expect_error({{backward, 0}}, loss,
               "stage 0, backward 0: expected a recorded forward before it, found none");
  expect_error({{forward, 0}, {backward_weight, 0}}, loss,
               "backward_weight 0: expected its backward_input before it, found none");
  expect_error({{forward, 0}, {backward_input, 0}, {backward, 0}}, loss,
               "backward 0: expected a recorded forward before it, found none");
  expect_error({{forward, 0, 1}}, hidden,
               "forward 0 of chunk 1: expected its hidden state before it, found none", 2);
  expect_error({{forward, 0, 0}, {backward, 0, 0}}, hidden,
               "backward 0: expected the gradient of its hidden state before it, found none", 2);
  expect_error({{forward, 0, 0}, {send_activation, 0, 0}}, hidden,
               "send_activation 0: expected a virtual stage after this one on another rank, found none", 2);
  expect_error({{receive_activation, 0}}, loss,
               "receive_activation 0: expected a virtual stage before this one on another rank, found none");
  const Comm world = Comm::world();
  if (world.size() > 1 && world.rank() == world.size() - 1)
    expect_error({{send_gradient, 0}}, loss,
                 "send_gradient 0: expected its backward or backward_input before it, found none", 1, world);
  expect_error({{forward, 0}}, loss, "micro-batch 0 of chunk 0 has not been taken backward");
  expect_error({{forward, 0}, {backward_input, 0}}, loss,
               "micro-batch 0 of chunk 0 has not been through its backward_weight");
}

}  // namespace
}  // namespace wuneng

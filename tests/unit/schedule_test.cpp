// Pipeline schedules: valid for every size of pipeline and batch, and the validator catches each way to break
// one.
#include "parallel/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "parallel/schedule_times.h"
#include "parallel/schedule_validator.h"
#include "runtime/error.h"

namespace wuneng::schedule_test {
namespace {

std::vector<Schedule> all_stages(const PipelineSchedule& schedule, const VirtualStages& on,
                                 int micro_batches) {
  std::vector<Schedule> out;
  for (int s = 0; s < on.stages; ++s) out.push_back(schedule(on, s, micro_batches));
  return out;
}

size_t find(const Schedule& schedule, Action action) {
  const auto at = std::find(schedule.begin(), schedule.end(), action);
  EXPECT_NE(at, schedule.end()) << to_string(action);
  return at - schedule.begin();
}

void erase(Schedule& schedule, Action action) { schedule.erase(schedule.begin() + find(schedule, action)); }

// Expects the validator to refuse `stages` as a `schedule`, and its message to hold `text`.
void expect_refused(const PipelineSchedule& schedule, const VirtualStages& on, int micro_batches,
                    const std::vector<Schedule>& stages, const std::string& text) {
  try {
    validate(schedule, on, micro_batches, stages);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
        << error.what() << "\nexpected: " << text;
    return;
  }
  FAIL() << "accepted; expected: " << text;
}
void expect_refused(const std::vector<Schedule>& stages, int micro_batches, bool trains,
                    const std::string& text) {
  expect_refused(trains ? one_f_one_b : forward_only, {static_cast<int>(stages.size())}, micro_batches,
                 stages, text);
}

TEST(Schedule, RegisteredSchedulesAreValidForAllSizes) {
  for (const std::string& name : schedule_names()) {
    const PipelineSchedule& schedule = schedule_named(name);
    for (int chunks = 1; chunks <= 3; ++chunks)
      for (int stages = 1; stages <= 6 && schedule.takes(chunks); ++stages)
        for (int m = 1; m <= 14; ++m) {
          SCOPED_TRACE(testing::Message() << name << ", " << stages << " stages of " << chunks << " chunks, "
                                          << m << " micro-batches");
          EXPECT_NO_THROW(validate(schedule, {stages, chunks, schedule.placement}, m));
        }
  }
  EXPECT_THROW(schedule_named("2f2b"), Error);
  EXPECT_THROW(one_f_one_b({2, 2}, 0, 3), Error);
  EXPECT_THROW(zb_v({2, 3, VirtualStages::v_shaped}, 0, 3), Error);
}

// Simulated, with times that tell F, B and W apart, against what each schedule's source says.
TEST(Schedule, IdleTimesAreTheirFormulas) {
  const ActionTimes times{.forward = 2, .backward_input = 2.5, .backward_weight = 1.5};
  const double F = 2, B = 2.5, W = 1.5;
  const auto idle = [&](const PipelineSchedule& schedule, int stages, int chunks, int m,
                        const ActionTimes& t) {
    const ScheduleTimes found = simulate(schedule, {stages, chunks, schedule.placement}, m, t);
    for (int s = 0; s < stages; ++s)
      EXPECT_EQ(found.held[s], schedule.most_held({stages, chunks, schedule.placement}, s, m))
          << schedule.name << " stage " << s << " of " << stages << ", " << m;
    return found.all - m * (t.forward + t.backward_input + t.backward_weight);
  };
  for (int p = 1; p <= 8; ++p)
    for (const int m : {2 * p, 3 * p, 5 * p}) {
      EXPECT_NEAR(idle(one_f_one_b, p, 1, m, times), (p - 1) * (F + B + W), 1e-9) << p << " " << m;
      EXPECT_NEAR(idle(zb_h1, p, 1, m, times), (p - 1) * (F + B - W), 1e-9) << p << " " << m;
      for (const int v : {2, 3})
        EXPECT_NEAR(idle(interleaved_1f1b, p, v, m, times), (p - 1) * (F + B + W) / v, 1e-9) << p << m << v;
      EXPECT_NEAR(idle(zb_v, p, 2, m, {}), (p - 1) * 0.5, 1e-9) << p << " " << m;
    }
}

TEST(Schedule, ALateMessageIsWaitedFor) {
  // Two stages, one micro-batch: two messages on the way.
  EXPECT_NEAR(simulate(one_f_one_b, {2}, 1, {.message = 5}).all, 2 * 3 + 2 * 5, 1e-9);
  EXPECT_NEAR(simulate(one_f_one_b, {2}, 1, {}).idle_share(), 0.5, 1e-9);
}

TEST(Schedule, ChosenIsTheOneThatWaitsLeast) {
  const auto name = [](int stages, int m, int64_t layers, const ActionTimes& times = {}) {
    return std::string(choose_schedule(stages, m, layers, times).schedule->name);
  };
  EXPECT_EQ(name(1, 4, 8), "1f1b");  // nothing waits
  EXPECT_EQ(name(4, 8, 8), "zb_v");
  EXPECT_EQ(name(4, 8, 7), "zb_h1");  // too few layers for two chunks a stage
  EXPECT_NEAR(choose_schedule(4, 8, 8, {}).idle_share, 1.5 / (8 * 3 + 1.5), 1e-9);
}

TEST(Schedule, ForwardOnlyIsValidForAllSizes) {
  for (int stages = 1; stages <= 6; ++stages)
    for (int m = 1; m <= 8; ++m)
      for (int chunks = 1; chunks <= 3; ++chunks)
        for (const auto placement : {VirtualStages::interleaved, VirtualStages::v_shaped}) {
          SCOPED_TRACE(testing::Message() << stages << " stages, " << m << " micro-batches, " << chunks);
          EXPECT_NO_THROW(validate(forward_only, {stages, chunks, placement}, m));
        }
}

TEST(Schedule, PlacementOfVirtualStages) {
  const auto stages_of = [](const VirtualStages& on) {
    std::vector<int> out;
    for (int v = 0; v < on.count(); ++v) {
      out.push_back(on.stage_of(v));
      EXPECT_EQ(on.at(on.stage_of(v), on.chunk_of(v)), v);
    }
    return out;
  };
  EXPECT_EQ(stages_of({3, 2, VirtualStages::interleaved}), (std::vector<int>{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(stages_of({3, 2, VirtualStages::v_shaped}), (std::vector<int>{0, 1, 2, 2, 1, 0}));
}

TEST(Schedule, MessagesOfChunksByHand) {
  using enum Action::Kind;
  const Schedule computations{
      {forward, 0, 0}, {forward, 0, 1}, {backward_input, 0, 1}, {backward_weight, 0, 1}};
  // The last of two stages in a V: its second chunk takes what its first has made.
  EXPECT_EQ(with_messages(computations, {2, 2, VirtualStages::v_shaped}, 1),
            (Schedule{{receive_activation, 0, 0},
                      {forward, 0, 0},
                      {forward, 0, 1},
                      {send_activation, 0, 1},
                      {receive_gradient, 0, 1},
                      {backward_input, 0, 1},
                      {backward_weight, 0, 1}}));
  // Interleaved it sends its first chunk's to the first stage.
  EXPECT_EQ(with_messages(computations, {2, 2}, 1), (Schedule{{receive_activation, 0, 0},
                                                              {forward, 0, 0},
                                                              {send_activation, 0, 0},
                                                              {receive_activation, 0, 1},
                                                              {forward, 0, 1},
                                                              {backward_input, 0, 1},
                                                              {send_gradient, 0, 1},
                                                              {backward_weight, 0, 1}}));
}

TEST(Schedule, LastBackward) {
  using enum Action::Kind;
  EXPECT_EQ(last_backward(one_f_one_b({3}, 1, 5)), 4);
  EXPECT_EQ(last_backward({{backward, 2}, {backward, 0}, {send_gradient, 2}}), 0);
  EXPECT_EQ(last_backward(forward_only({3}, 1, 5)), -1);
  // Halves: the last weight half, not the last input half.
  EXPECT_EQ(
      last_backward({{backward_input, 0}, {backward_input, 1}, {backward_weight, 1}, {backward_weight, 0}}),
      0);
  // Chunks: a chunk whose gradients are complete before those of one behind it has no such micro-batch.
  const Schedule chunks{{backward, 0, 1}, {backward, 0, 0}, {backward, 1, 1}, {backward, 1, 0}};
  EXPECT_EQ(last_backward(chunks, 0), 1);
  EXPECT_EQ(last_backward(chunks, 1), 1);
  const Schedule late{{backward, 0, 1}, {backward, 1, 0}, {backward, 0, 0}, {backward, 1, 1}};
  EXPECT_EQ(last_backward(late, 0), -1);
  EXPECT_EQ(last_backward(late, 1), 1);
}

TEST(Schedule, OneForwardOneBackwardByHand) {
  using enum Action::Kind;
  EXPECT_EQ(one_f_one_b({1}, 0, 2), (Schedule{{forward, 0}, {backward, 0}, {forward, 1}, {backward, 1}}));
  EXPECT_EQ(one_f_one_b({2}, 0, 2), (Schedule{{forward, 0},
                                              {send_activation, 0},
                                              {forward, 1},
                                              {send_activation, 1},
                                              {receive_gradient, 0},
                                              {backward, 0},
                                              {receive_gradient, 1},
                                              {backward, 1}}));
  EXPECT_EQ(one_f_one_b({2}, 1, 2), (Schedule{{receive_activation, 0},
                                              {forward, 0},
                                              {backward, 0},
                                              {send_gradient, 0},
                                              {receive_activation, 1},
                                              {forward, 1},
                                              {backward, 1},
                                              {send_gradient, 1}}));
}

TEST(Schedule, ForwardsFirstHoldTooManyMicroBatches) {  // GPipe: correct, but for its memory
  PipelineSchedule all_forwards_first = one_f_one_b;
  all_forwards_first.computations = [](const VirtualStages& on, int stage, int micro_batches) {
    Schedule out = one_f_one_b.computations(on, stage, micro_batches);
    std::stable_sort(out.begin(), out.end(),
                     [](const Action& a, const Action& b) { return a.kind < b.kind; });
    return out;
  };
  const auto stages = [&](int count, int m) { return all_stages(all_forwards_first, {count}, m); };
  EXPECT_NO_THROW(validate(all_forwards_first, {3}, 1));
  expect_refused(stages(3, 4), 4, true, "4 micro-batches held, expected at most 3");
  expect_refused(stages(1, 2), 2, true,
                 "stage 0, action 1 (forward 1): 2 micro-batches held, expected at most 1");
  // A schedule says itself what it holds.
  all_forwards_first.most_held = [](const VirtualStages&, int, int micro_batches) { return micro_batches; };
  EXPECT_NO_THROW(validate(all_forwards_first, {3}, 4));
}

TEST(Schedule, AMicroBatchIsHeldUntilItsWeightHalf) {
  PipelineSchedule as_1f1b = zb_h1;  // whose last stage holds one micro-batch
  as_1f1b.most_held = one_f_one_b.most_held;
  expect_refused(as_1f1b, {2}, 3, all_stages(as_1f1b, {2}, 3),
                 "stage 1, action 5 (forward 1): 2 micro-batches held, expected at most 1");
}

TEST(Schedule, MissingMessagesAreCaught) {
  auto stages = all_stages(one_f_one_b, {3}, 4);
  erase(stages[0], {Action::send_activation, 2});
  expect_refused(stages, 4, true, "stage 1, action 9 (receive_activation 2): stage 0 never sends it");

  stages = all_stages(one_f_one_b, {3}, 4);
  erase(stages[2], {Action::send_gradient, 3});
  expect_refused(stages, 4, true, "(receive_gradient 3): stage 2 never sends it");

  stages = all_stages(one_f_one_b, {3}, 4);
  erase(stages[1], {Action::receive_activation, 0});
  expect_refused(stages, 4, true, "stage 1, action 0 (forward 0): its activation has not been received");

  stages = all_stages(one_f_one_b, {3}, 4);
  erase(stages[1], {Action::receive_gradient, 0});
  expect_refused(stages, 4, true, "(backward 0): its gradient has not been received");

  stages = all_stages(forward_only, {2}, 1);
  stages[1].clear();
  expect_refused(stages, 1, false, "stage 0, action 1 (send_activation 0): stage 1 never receives it");
}

TEST(Schedule, SwappedOrderIsCaught) {
  const auto swapped = [](int stage, Action a, Action b) {
    auto stages = all_stages(one_f_one_b, {3}, 4);
    Schedule& s = stages[stage];
    std::swap(s[find(s, a)], s[find(s, b)]);
    return stages;
  };
  expect_refused(swapped(2, {Action::forward, 0}, {Action::backward, 0}), 4, true,
                 "(backward 0): before its forward");
  expect_refused(swapped(0, {Action::forward, 1}, {Action::send_activation, 1}), 4, true,
                 "stage 0, action 2 (send_activation 1): before its forward");
  expect_refused(swapped(1, {Action::backward, 1}, {Action::send_gradient, 1}), 4, true,
                 "(send_gradient 1): before its backward");
  // Each side has all its sends and receives, but the first stage waits for a gradient before it sends what
  // it is of.
  expect_refused(swapped(0, {Action::send_activation, 0}, {Action::receive_gradient, 0}), 4, true,
                 "deadlock: stage 0");
}

TEST(Schedule, MissingAndRepeatedWorkIsCaught) {
  auto stages = all_stages(one_f_one_b, {1}, 3);
  erase(stages[0], {Action::backward, 2});
  expect_refused(stages, 3, true, "stage 0, after all 5 actions: expected backward 2, found none");

  stages = all_stages(one_f_one_b, {1}, 3);
  stages[0].push_back({Action::backward, 1});
  expect_refused(stages, 3, true, "stage 0, action 6 (backward 1): a second time");

  stages = all_stages(forward_only, {1}, 3);
  erase(stages[0], {Action::forward, 1});
  expect_refused(stages, 3, false, "expected forward 1, found none");

  stages = all_stages(forward_only, {1}, 3);
  stages[0].push_back({Action::forward, 3});
  expect_refused(stages, 3, false, "(forward 3): no such micro-batch among 3");
}

TEST(Schedule, MessagesWithoutAPartnerAreCaught) {
  auto stages = all_stages(one_f_one_b, {2}, 1);
  stages[1].insert(stages[1].begin() + 2, {Action::send_activation, 0});
  expect_refused(stages, 1, true,
                 "stage 1, action 2 (send_activation 0): the last stage has nobody to send to");

  stages = all_stages(one_f_one_b, {2}, 1);
  stages[0].push_back({Action::send_gradient, 0});
  expect_refused(stages, 1, true, "(send_gradient 0): the first stage has nobody to send to");

  stages = all_stages(one_f_one_b, {2}, 1);
  stages[0].insert(stages[0].begin(), {Action::receive_activation, 0});
  expect_refused(stages, 1, true,
                 "stage 0, action 0 (receive_activation 0): there is no such stage to receive from");

  stages = all_stages(one_f_one_b, {1}, 1);
  expect_refused(stages, 1, false,
                 "stage 0, action 1 (backward 0): nothing goes backward in a schedule of forwards");
}

TEST(Schedule, HalvesOutOfOrderAreCaught) {
  using enum Action::Kind;
  const auto refused = [](const Schedule& stage, const std::string& text) {
    expect_refused(zb_h1, {1}, 1, {stage}, text);
  };
  refused({{forward, 0}, {backward_weight, 0}, {backward_input, 0}},
          "action 1 (backward_weight 0): before its backward_input");
  refused({{backward_input, 0}, {forward, 0}}, "action 0 (backward_input 0): before its forward");
  refused({{forward, 0}, {backward_input, 0}, {backward, 0}},
          "action 2 (backward 0): after its backward_input");
  refused({{forward, 0}, {backward, 0}, {backward_input, 0}},
          "action 2 (backward_input 0): after its whole backward");
  refused({{forward, 0}, {backward, 0}, {backward_weight, 0}},
          "action 2 (backward_weight 0): after its whole backward");
  refused({{forward, 0}, {backward_input, 0}, {backward_weight, 0}, {backward_weight, 0}},
          "action 3 (backward_weight 0): a second time");
  refused({{forward, 0}, {backward_input, 0}}, "after all 2 actions: expected backward_weight 0, found none");
  expect_refused(forward_only, {1}, 1, {{{forward, 0}, {backward_input, 0}}},
                 "(backward_input 0): nothing goes backward in a schedule of forwards");

  auto stages = all_stages(zb_h1, {2}, 2);
  Schedule& last = stages[1];
  std::swap(last[find(last, {backward_input, 1})], last[find(last, {send_gradient, 1})]);
  expect_refused(zb_h1, {2}, 2, stages, "(send_gradient 1): before its backward or backward_input");
  stages = all_stages(zb_h1, {2}, 2);
  erase(stages[0], {receive_gradient, 1});
  expect_refused(zb_h1, {2}, 2, stages, "(backward_input 1): its gradient has not been received");
}

// Two chunks in a V: all forwards, then all input halves, each chunk's weight halves after the other chunk's.
const PipelineSchedule v_halves{
    "v_halves",
    true,
    VirtualStages::v_shaped,
    [](const VirtualStages&, int, int micro_batches) {
      Schedule out;
      const auto all = [&](Action::Kind kind, int chunk) {
        for (int m = 0; m < micro_batches; ++m) out.push_back({kind, m, chunk});
      };
      all(Action::forward, 0);
      all(Action::forward, 1);
      all(Action::backward_input, 1);
      all(Action::backward_input, 0);
      all(Action::backward_weight, 1);
      all(Action::backward_weight, 0);
      return out;
    },
    [](const VirtualStages&, int, int micro_batches) { return 2 * micro_batches; },
    2};

TEST(Schedule, ChunksOutOfOrderAreCaught) {
  using enum Action::Kind;
  const VirtualStages v{2, 2, VirtualStages::v_shaped};
  const auto mutated = [&](int stage, auto change) {
    auto stages = all_stages(v_halves, v, 2);
    change(stages[stage]);
    return stages;
  };
  const auto refused = [&](int stage, auto change, const std::string& text) {
    expect_refused(v_halves, v, 2, mutated(stage, change), text);
  };
  const auto swap = [](Action a, Action b) {
    return [=](Schedule& s) { std::swap(s[find(s, a)], s[find(s, b)]); };
  };
  refused(
      1, [](Schedule& s) { s[0].chunk = 2; }, "(receive_activation 0 of chunk 2): no such chunk among 2");
  refused(1, swap({forward, 0, 0}, {forward, 0, 1}), "(forward 0 of chunk 1): before forward 0");
  refused(1, swap({backward_input, 0, 0}, {backward_input, 0, 1}),
          "(backward_input 0): before backward 0 of chunk 1 or its input half");
  refused(
      1,
      [](Schedule& s) {
        s.insert(s.begin() + find(s, {forward, 0, 0}) + 1, {send_activation, 0, 0});
      },
      "(send_activation 0): chunk 1 is on the same stage: expected no message");
  refused(
      1,
      [](Schedule& s) {
        s.insert(s.begin() + find(s, {forward, 0, 1}), {receive_activation, 0, 1});
      },
      "(receive_activation 0 of chunk 1): chunk 0 is on the same stage: expected no message");
  refused(
      0,
      [](Schedule& s) {
        s.insert(s.end(), {send_activation, 0, 1});
      },
      "(send_activation 0 of chunk 1): the last stage has nobody to send to");
  refused(
      0,
      [](Schedule& s) {
        erase(s, {backward_weight, 1, 1});
      },
      "expected backward_weight 1 of chunk 1, found none");
  refused(
      0,
      [](Schedule& s) {
        erase(s, {send_activation, 1, 0});
      },
      "stage 1, action 2 (receive_activation 1): stage 0 never sends it");
  // Two stages, whose messages of one direction are activations of one chunk and gradients of the other.
  refused(1, swap({receive_activation, 0, 0}, {receive_activation, 1, 0}),
          "(receive_activation 1): out of order: stage 0 sent send_activation 0 (its action 1) earlier");

  expect_refused(v_halves, v, 2, {{}}, "expected the actions of 2 stages, found 1");
}

TEST(Schedule, SizesOutOfRangeAreRefused) {
  EXPECT_THROW(one_f_one_b({2}, 2, 1), Error);
  EXPECT_THROW(one_f_one_b({2, 2}, 1, 1), Error) << "one chunk a stage";
  EXPECT_THROW(forward_only({2}, -1, 1), Error);
}

}  // namespace
}  // namespace wuneng::schedule_test

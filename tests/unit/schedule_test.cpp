// Pipeline schedules: valid for every size of pipeline and batch, and the validator catches each way to break
// one.
#include "parallel/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "runtime/error.h"

namespace wuneng {
namespace {

using Make = std::function<Schedule(int stages, int stage, int micro_batches)>;

std::vector<Schedule> all_stages(const Make& make, int stages, int micro_batches) {
  std::vector<Schedule> out;
  for (int s = 0; s < stages; ++s) out.push_back(make(stages, s, micro_batches));
  return out;
}

size_t find(const Schedule& schedule, Action action) {
  const auto at = std::find(schedule.begin(), schedule.end(), action);
  EXPECT_NE(at, schedule.end()) << to_string(action);
  return at - schedule.begin();
}

void erase(Schedule& schedule, Action action) { schedule.erase(schedule.begin() + find(schedule, action)); }

// Expects the validator to refuse, and its message to hold `text`.
void expect_refused(const std::vector<Schedule>& stages, int micro_batches, bool trains,
                    const std::string& text) {
  try {
    validate(stages, micro_batches, trains);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
        << error.what() << "\nexpected: " << text;
    return;
  }
  FAIL() << "accepted; expected: " << text;
}

TEST(Schedule, OneForwardOneBackwardIsValidForAllSizes) {
  for (int stages = 1; stages <= 6; ++stages)
    for (int m = 1; m <= 8; ++m) {
      SCOPED_TRACE(testing::Message() << stages << " stages, " << m << " micro-batches");
      EXPECT_NO_THROW(validate(all_stages(one_f_one_b, stages, m), m, true));
    }
}

TEST(Schedule, ForwardOnlyIsValidForAllSizes) {
  for (int stages = 1; stages <= 6; ++stages)
    for (int m = 1; m <= 8; ++m) {
      SCOPED_TRACE(testing::Message() << stages << " stages, " << m << " micro-batches");
      EXPECT_NO_THROW(validate(all_stages(forward_only, stages, m), m, false));
    }
}

TEST(Schedule, LastBackward) {
  EXPECT_EQ(last_backward(one_f_one_b(3, 1, 5)), 4);
  EXPECT_EQ(last_backward({{Action::backward, 2}, {Action::backward, 0}, {Action::send_gradient, 2}}), 0);
  EXPECT_EQ(last_backward(forward_only(3, 1, 5)), -1);
}

TEST(Schedule, OneForwardOneBackwardByHand) {
  using enum Action::Kind;
  EXPECT_EQ(one_f_one_b(1, 0, 2), (Schedule{{forward, 0}, {backward, 0}, {forward, 1}, {backward, 1}}));
  EXPECT_EQ(one_f_one_b(2, 0, 2), (Schedule{{forward, 0},
                                            {send_activation, 0},
                                            {forward, 1},
                                            {send_activation, 1},
                                            {receive_gradient, 0},
                                            {backward, 0},
                                            {receive_gradient, 1},
                                            {backward, 1}}));
  EXPECT_EQ(one_f_one_b(2, 1, 2), (Schedule{{receive_activation, 0},
                                            {forward, 0},
                                            {backward, 0},
                                            {send_gradient, 0},
                                            {receive_activation, 1},
                                            {forward, 1},
                                            {backward, 1},
                                            {send_gradient, 1}}));
}

TEST(Schedule, ForwardsFirstHoldTooManyMicroBatches) {  // GPipe: correct, but for its memory
  const Make all_forwards_first = [](int stages, int stage, int micro_batches) {
    Schedule out = forward_only(stages, stage, micro_batches);
    for (const Action& a : one_f_one_b(stages, stage, micro_batches))
      if (a.kind >= Action::receive_gradient) out.push_back(a);
    return out;
  };
  EXPECT_NO_THROW(validate(all_stages(all_forwards_first, 3, 1), 1, true));
  expect_refused(all_stages(all_forwards_first, 3, 4), 4, true, "4 micro-batches held, expected at most 3");
  expect_refused(all_stages(all_forwards_first, 1, 2), 2, true,
                 "stage 0, action 1 (forward 1): 2 micro-batches held, expected at most 1");
}

TEST(Schedule, MissingMessagesAreCaught) {
  auto stages = all_stages(one_f_one_b, 3, 4);
  erase(stages[0], {Action::send_activation, 2});
  expect_refused(stages, 4, true, "stage 1, action 9 (receive_activation 2): stage 0 never sends it");

  stages = all_stages(one_f_one_b, 3, 4);
  erase(stages[2], {Action::send_gradient, 3});
  expect_refused(stages, 4, true, "(receive_gradient 3): stage 2 never sends it");

  stages = all_stages(one_f_one_b, 3, 4);
  erase(stages[1], {Action::receive_activation, 0});
  expect_refused(stages, 4, true, "stage 1, action 0 (forward 0): its activation has not been received");

  stages = all_stages(one_f_one_b, 3, 4);
  erase(stages[1], {Action::receive_gradient, 0});
  expect_refused(stages, 4, true, "(backward 0): its gradient has not been received");

  stages = all_stages(forward_only, 2, 1);
  stages[1].clear();
  expect_refused(stages, 1, false, "stage 0, action 1 (send_activation 0): stage 1 never receives it");
}

TEST(Schedule, SwappedOrderIsCaught) {
  const auto swapped = [](int stage, Action a, Action b) {
    auto stages = all_stages(one_f_one_b, 3, 4);
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
  auto stages = all_stages(one_f_one_b, 1, 3);
  erase(stages[0], {Action::backward, 2});
  expect_refused(stages, 3, true, "stage 0, after all 5 actions: expected backward 2, found none");

  stages = all_stages(one_f_one_b, 1, 3);
  stages[0].push_back({Action::backward, 1});
  expect_refused(stages, 3, true, "stage 0, action 6 (backward 1): a second time");

  stages = all_stages(forward_only, 1, 3);
  erase(stages[0], {Action::forward, 1});
  expect_refused(stages, 3, false, "expected forward 1, found none");

  stages = all_stages(forward_only, 1, 3);
  stages[0].push_back({Action::forward, 3});
  expect_refused(stages, 3, false, "(forward 3): no such micro-batch among 3");
}

TEST(Schedule, MessagesWithoutAPartnerAreCaught) {
  auto stages = all_stages(one_f_one_b, 2, 1);
  stages[1].insert(stages[1].begin() + 2, {Action::send_activation, 0});
  expect_refused(stages, 1, true,
                 "stage 1, action 2 (send_activation 0): the last stage has nobody to send to");

  stages = all_stages(one_f_one_b, 2, 1);
  stages[0].push_back({Action::send_gradient, 0});
  expect_refused(stages, 1, true, "(send_gradient 0): the first stage has nobody to send to");

  stages = all_stages(one_f_one_b, 2, 1);
  stages[0].insert(stages[0].begin(), {Action::receive_activation, 0});
  expect_refused(stages, 1, true,
                 "stage 0, action 0 (receive_activation 0): there is no such stage to receive from");

  stages = all_stages(one_f_one_b, 1, 1);
  expect_refused(stages, 1, false,
                 "stage 0, action 1 (backward 0): nothing goes backward in a schedule of forwards");
}

TEST(Schedule, SizesOutOfRangeAreRefused) {
  EXPECT_THROW(one_f_one_b(2, 2, 1), Error);
  EXPECT_THROW(forward_only(2, -1, 1), Error);
}

}  // namespace
}  // namespace wuneng

// What becomes of a micro-batch whose documents a model continues.
#include "launch/train/continuations.h"

#include <gmock/gmock.h>

#include "runtime/error.h"

namespace wuneng::continuations_test {
namespace {

using testing::ElementsAre;

std::vector<int32_t> values(const Tensor& t) { return {t.data<int32_t>(), t.data<int32_t>() + t.numel()}; }

// Documents [0, 5), [5, 8), [8, 10) and [10, 12) with tokens 10, 11, .. The second's loss begins at its third
// token; the third has none.
MicroBatch batch() {
  std::vector<int32_t> tokens, labels;
  for (int32_t i = 0; i < 12; ++i) tokens.push_back(10 + i), labels.push_back(11 + i);
  for (const int row : {5, 8, 9}) labels[row] = kNoLabel;
  return {Tensor::from(tokens, {12}), Tensor::from(labels, {12}), {0, 5, 8, 10, 12}};
}

TEST(Continuations, PromptsGoToTheFirstTokenWithALoss) {
  const std::vector<Prompt> one = prompts_of(batch(), 1);
  ASSERT_EQ(one.size(), 3u);
  EXPECT_THAT(one[0].tokens, ElementsAre(10));
  EXPECT_THAT(one[1].tokens, ElementsAre(15, 16));
  EXPECT_EQ(one[1].missing(), 2);  // a row, and the last row's label
  EXPECT_THAT(one[2].tokens, ElementsAre(20));
  const std::vector<Prompt> two = prompts_of(batch(), 2);
  ASSERT_EQ(two.size(), 2u);  // the last document is no longer than its prompt
  EXPECT_THAT(two[0].tokens, ElementsAre(10, 11));
  EXPECT_EQ(two[0].missing(), 4);
}

TEST(Continuations, OnlyGeneratedTokensHaveALoss) {
  MicroBatch b = batch();
  const std::vector<Prompt> prompts = prompts_of(b, 2);
  put_continuation(b, prompts[0], {1, 2, 3, 4});
  put_continuation(b, prompts[1], {7});  // it ended the text
  EXPECT_THAT(values(b.tokens), ElementsAre(10, 11, 1, 2, 3, 15, 16, 7, 18, 19, 20, 21));
  EXPECT_THAT(values(b.labels),
              ElementsAre(kNoLabel, 1, 2, 3, 4, kNoLabel, 7, kNoLabel, kNoLabel, kNoLabel, 21, 22));
}

TEST(Continuations, WhatIsLeftBehindTheEndHasNoLoss) {
  MicroBatch b = batch();
  put_continuation(b, prompts_of(b, 1)[0], {5, 6});
  const std::vector<int32_t> tokens = values(b.tokens), labels = values(b.labels);
  EXPECT_THAT(std::vector<int32_t>(tokens.begin(), tokens.begin() + 5), ElementsAre(10, 5, 6, 6, 6));
  EXPECT_THAT(std::vector<int32_t>(labels.begin(), labels.begin() + 5),
              ElementsAre(5, 6, kNoLabel, kNoLabel, kNoLabel));
}

TEST(Continuations, RefuseMoreThanFits) {
  MicroBatch b = batch();
  const Prompt prompt = prompts_of(b, 4)[0];
  EXPECT_EQ(prompt.missing(), 2);
  EXPECT_THROW(put_continuation(b, prompt, {1, 2, 3}), Error);
  EXPECT_THROW(put_continuation(b, prompt, {}), Error);
}

}  // namespace
}  // namespace wuneng::continuations_test

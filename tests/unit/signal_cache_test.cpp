// What a sequence is known by in the cache of the teacher's signals.
#include "launch/train/signal_cache.h"

#include <gtest/gtest.h>

namespace wuneng::signal_cache_test {
namespace {

MicroBatch batch_of(const std::vector<int32_t>& tokens, const std::vector<int64_t>& documents) {
  const int64_t rows = static_cast<int64_t>(tokens.size());
  return {Tensor::from<int32_t>(tokens, {rows}), Tensor::from<int32_t>(tokens, {rows}), documents};
}

TEST(SequenceKey, IsOfTokensAndDocumentsWhereverTheSequenceIs) {
  const MicroBatch batch = batch_of({1, 2, 3, 4, 5, 6, 1, 2, 3}, {0, 2, 3, 6, 8, 9});
  const auto key = sequence_key(batch, 0, 3);
  EXPECT_EQ(key, sequence_key(batch, 2, 3));
  EXPECT_EQ(key, sequence_key(batch_of({1, 2, 3}, {0, 2, 3}), 0, 3));
  EXPECT_NE(key, sequence_key(batch, 1, 3));
  EXPECT_NE(key, sequence_key(batch_of({1, 2, 4}, {0, 2, 3}), 0, 3));
  EXPECT_NE(key, sequence_key(batch_of({1, 2, 3}, {0, 1, 3}), 0, 3));
  EXPECT_NE(key, sequence_key(batch_of({1, 2, 3}, {0, 3}), 0, 3));
  EXPECT_NE(sequence_key(batch_of({0, 0}, {0, 2}), 0, 2), sequence_key(batch_of({0, 0, 0}, {0, 3}), 0, 3));
}

}  // namespace
}  // namespace wuneng::signal_cache_test

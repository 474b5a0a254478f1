#include "parallel/stream_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace wuneng {
namespace {

TEST(StreamPlan, SlicesTileEveryStudentRanksPartOfTheSharedVocabulary) {
  for (int student = 1; student <= 8; ++student)
    for (int teacher = 1; teacher <= 8; ++teacher)
      for (const auto& [vs, vt] : {std::pair<int64_t, int64_t>{151936, 152064},
                                   {152064, 151936},
                                   {256, 256},
                                   {259, 263},
                                   {10, 100}}) {
        const StreamShape shape{1, student, 1, teacher, vs, vt};
        const auto slices = stream_slices(shape);
        for (int rank = 0; rank < student; ++rank) {
          const Range held = shard_range(vs, student, rank);
          int64_t at = std::min(held.begin, shape.shared_vocab());
          for (const StreamSlice& s : slices) {
            if (s.student_tp != rank) continue;
            EXPECT_EQ(s.columns.begin, at);
            const Range from = shard_range(vt, teacher, s.teacher_tp);
            EXPECT_TRUE(from.begin <= s.columns.begin && s.columns.end <= from.end);
            at = s.columns.end;
          }
          EXPECT_EQ(at, std::min(held.end, shape.shared_vocab()));
        }
      }
}

TEST(StreamPlan, EveryItemIsServedOnceAndEvenly) {
  for (int student = 1; student <= 4; ++student)
    for (int teacher = 1; teacher <= 4; ++teacher) {
      const StreamShape shape{student, 1, teacher, 1, 8, 8, 3};
      std::set<int64_t> served;
      std::vector<int64_t> load(teacher, 0);
      for (int64_t round = 0; round < 8; ++round)
        for (int replica = 0; replica < teacher; ++replica)
          for (const StreamItem& item : items_served(shape, round, replica)) {
            EXPECT_TRUE(served.insert(item_index(shape, item)).second);
            EXPECT_EQ(serving_replica(shape, item), replica);
            ++load[replica];
          }
      EXPECT_EQ(static_cast<int64_t>(served.size()), 8 * 3 * student);
      EXPECT_LE(*std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()), 1);
    }
}

}  // namespace
}  // namespace wuneng

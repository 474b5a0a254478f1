// Which layer of the teacher each layer of the student is aligned with, and where a colocated teacher runs.
#include "model/layer_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/error.h"

namespace wuneng::layer_map_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(LayerMap, IsEvenlySpreadAndEndsAtTheLastLayer) {
  EXPECT_THAT(spread_layers(4, 4), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(spread_layers(3, 6), ElementsAre(1, 3, 5));
  EXPECT_THAT(spread_layers(2, 5), ElementsAre(2, 4));
  EXPECT_THAT(spread_layers(3, 2), ElementsAre(0, 0, 1));
  for (int64_t student = 1; student < 90; ++student)
    for (int64_t teacher : {1, 2, 28, 64, 80}) {
      const auto map = spread_layers(student, teacher);
      EXPECT_NO_THROW(check_layer_map(map, student, teacher, "map"));
      EXPECT_EQ(map.back(), teacher - 1);
      if (student > teacher) continue;
      for (int64_t i = 1; i < student; ++i) EXPECT_LT(map[i - 1], map[i]) << student << " of " << teacher;
    }
}

TEST(LayerMap, IsChecked) {
  const auto refused = [](const std::vector<int64_t>& map, const char* why) {
    EXPECT_THAT([&] { check_layer_map(map, 3, 5, "teacher.layer_map"); },
                ThrowsMessage<Error>(HasSubstr(why)));
  };
  refused({0, 1},
          "teacher.layer_map: expected a layer of the teacher for each of the student's 3 layers, found 2");
  refused({0, 1, 5}, "layer 2 of the student: expected a layer of the teacher, 0 to 4, found 5");
  refused({0, -1, 2}, "layer 1 of the student: expected a layer of the teacher, 0 to 4, found -1");
  refused({0, 3, 2}, "expected no layer before that of layer 1, which is 3, found 2");
}

TEST(LayerMap, AColocatedTeachersLayersRunOnTheStagesThatAreAlignedWithThem) {
  EXPECT_THAT(colocated_stages({0, 1, 2, 3}, 2, 4), ElementsAre(Range{0, 2}, Range{2, 4}));
  EXPECT_THAT(colocated_stages({1, 3}, 2, 7), ElementsAre(Range{0, 2}, Range{2, 7}));
  EXPECT_THAT(colocated_stages({0, 0, 1}, 3, 2), ElementsAre(Range{0, 1}, Range{1, 1}, Range{1, 2}));
  for (int64_t teacher : {3, 4, 9})
    for (int stages = 1; stages <= 4; ++stages) {
      const auto map = spread_layers(4, teacher);
      const auto ranges = colocated_stages(map, stages, teacher);
      EXPECT_EQ(ranges.front().begin, 0);
      EXPECT_EQ(ranges.back().end, teacher);
      for (int64_t i = 0; i < teacher; ++i) {
        const Range& at = ranges[stage_of_layer(ranges, i)];
        EXPECT_TRUE(at.begin <= i && i < at.end);
      }
    }
}

}  // namespace
}  // namespace wuneng::layer_map_test

// The arena of a GPU's memory: ranges do not overlap, and what was freed can be taken again as a whole.
#include "runtime/arena.h"

#include <gtest/gtest.h>

#include <random>

namespace wuneng::arena_test {
namespace {

TEST(Arena, RangesDoNotOverlapAndBecomeOneAgain) {
  constexpr int64_t kSize = 1 << 20;
  Arena arena(kSize);
  std::mt19937 random(1);
  std::map<int64_t, int64_t> taken;  // offset -> bytes
  int64_t refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    if (random() % 2 == 0 || taken.empty()) {
      const int64_t bytes = static_cast<int64_t>(random() % (random() % 8 == 0 ? 200'000 : 4'000));
      const auto offset = arena.take(bytes);
      if (!offset) {
        ++refused;
        EXPECT_LT(arena.largest(), bytes + 512);
        continue;
      }
      EXPECT_EQ(*offset % 512, 0);
      EXPECT_LE(*offset + bytes, kSize);
      const auto after = taken.lower_bound(*offset);
      EXPECT_GE(after == taken.end() ? kSize : after->first, *offset + bytes);
      EXPECT_LE(after == taken.begin() ? 0 : std::prev(after)->first + std::prev(after)->second, *offset);
      taken[*offset] = bytes;
    } else {
      const auto one = std::next(taken.begin(), static_cast<int64_t>(random() % taken.size()));
      arena.put(one->first, one->second);
      taken.erase(one);
    }
  }
  EXPECT_GT(refused, 0);
  for (const auto& [offset, bytes] : taken) arena.put(offset, bytes);
  EXPECT_EQ(arena.free_bytes(), kSize);
  EXPECT_EQ(arena.largest(), kSize);
  EXPECT_EQ(arena.take(kSize), 0);
  EXPECT_EQ(arena.take(1), std::nullopt);
}

TEST(Arena, TakesTheSmallestRangeThatHasRoom) {
  Arena arena(10 * 512);
  for (const int64_t offset : {0, 1024, 1536}) ASSERT_EQ(arena.take(offset == 0 ? 1024 : 512), offset);
  arena.put(0, 1024);  // 1024 free here, and 6 * 512 at the end
  EXPECT_EQ(arena.take(1025), 2048);
  EXPECT_EQ(arena.take(600), 0);
}

}  // namespace
}  // namespace wuneng::arena_test

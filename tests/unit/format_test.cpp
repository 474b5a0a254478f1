// Formatting for terminal output.
#include "runtime/format.h"

#include <gtest/gtest.h>

namespace wuneng::format_test {
namespace {

TEST(Format, Thousands) {
  EXPECT_EQ(thousands(0), "0");
  EXPECT_EQ(thousands(999), "999");
  EXPECT_EQ(thousands(1000), "1,000");
  EXPECT_EQ(thousands(-123456), "-123,456");
  EXPECT_EQ(thousands(1234567), "1,234,567");
}

TEST(Format, ShortCounts) {
  EXPECT_EQ(short_count(0), "0");
  EXPECT_EQ(short_count(999), "999");
  EXPECT_EQ(short_count(1234), "1.23k");
  EXPECT_EQ(short_count(45.6e6), "45.6M");
  EXPECT_EQ(short_count(789e9), "789G");
  EXPECT_EQ(short_count(5e15), "5000T");
}

TEST(Format, ClockTime) {
  EXPECT_EQ(clock_time(0.2), "0:00");
  EXPECT_EQ(clock_time(59.6), "1:00");
  EXPECT_EQ(clock_time(3723), "1:02:03");
}

}  // namespace
}  // namespace wuneng::format_test

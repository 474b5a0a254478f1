// Where a step's time went, by spans of known times.
#include "launch/train/step_trace.h"

#include <gtest/gtest.h>

#include <thread>

namespace wuneng::step_trace_test {
namespace {

using trace::Kind;

trace::Event span(Kind kind, double begin, double end) {
  return {"", kind, 0, static_cast<int64_t>(begin * 1e9), static_cast<int64_t>(end * 1e9)};
}

TEST(StepTimes, TheInnerSpanCounts) {
  const StepTimes t =
      StepTimes::of({span(Kind::communication, 2, 3), span(Kind::compute, 1, 5), span(Kind::step, 0, 10),
                     span(Kind::waiting, 5, 7), span(Kind::compute, 5.5, 6)});
  EXPECT_NEAR(t.compute, 3.5, 1e-9);  // 1 to 2, 3 to 5, 5.5 to 6
  EXPECT_NEAR(t.communication, 1, 1e-9);
  EXPECT_NEAR(t.waiting, 1.5, 1e-9);
  EXPECT_NEAR(t.other, 4, 1e-9);  // 0 to 1, 7 to 10
  EXPECT_EQ(t.stream + t.saving, 0);
}

TEST(StepTimes, WithinStreamAndSavingAllCountsForThem) {
  const StepTimes t =
      StepTimes::of({span(Kind::step, 0, 10), span(Kind::stream, 1, 4), span(Kind::waiting, 2, 3),
                     span(Kind::compute, 2, 2.5), span(Kind::saving, 5, 9), span(Kind::communication, 5, 9)});
  EXPECT_NEAR(t.stream, 3, 1e-9);
  EXPECT_NEAR(t.saving, 4, 1e-9);
  EXPECT_NEAR(t.other, 3, 1e-9);
  EXPECT_NEAR(t.compute + t.waiting + t.communication, 0, 1e-9);
}

TEST(StepTimes, TextNamesSharesOfTheWhole) {
  EXPECT_EQ((StepTimes{.compute = 0.06, .waiting = 0.03, .other = 0.01}.text()),
            "0.1 s: compute 60.0%, communication 0.0%, waiting 30.0%, stream 0.0%, saving 0.0%, other 10.0%");
}

TEST(Trace, HasWhatBeganAndEndedWhileItWasRecorded) {
  trace::take();
  {
    const trace::Span before(Kind::compute, "begun before");
    trace::record(true);
    const trace::Span outer(Kind::compute, "outer");
    std::thread([] { const trace::Span other(Kind::saving, "another thread's"); }).join();
    const trace::Span inner(Kind::waiting, "inner");
  }
  trace::record(false);
  { const trace::Span after(Kind::compute, "after"); }
  const std::vector<trace::Event> found = trace::take();
  ASSERT_EQ(found.size(), 3);
  EXPECT_EQ(found[0].name, "another thread's");
  EXPECT_NE(found[0].thread, 0);
  EXPECT_EQ(found[1].name, "inner");
  EXPECT_EQ(found[2].name, "outer");
  EXPECT_EQ(found[2].thread, found[1].thread);
  EXPECT_LE(found[2].begin, found[1].begin);
  EXPECT_GE(found[2].end, found[1].end);
}

}  // namespace
}  // namespace wuneng::step_trace_test

// Hang reports of runs that nobody can start here: a thousand ranks, waits in a circle, calls that do not
// end.
#include "runtime/hang_report.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace wuneng::hang_report_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using Kind = RankState::Kind;

RankState state(int rank, Kind kind, double seconds, const std::string& name, const std::string& call,
                std::vector<int> peers = {}) {
  return {.rank = rank,
          .kind = kind,
          .seconds = seconds,
          .name = name.empty() ? "" : fmt::format("rank {} ({})", rank, name),
          .host = fmt::format("h{}", rank / 8),
          .pid = 1000 + rank,
          .place = "step 12, micro-batch 1",
          .call = call,
          .peers = std::move(peers)};
}

TEST(HangReport, RangesOfRanks) {
  for (const auto& ranks : std::vector<std::vector<int>>{{}, {0}, {0, 1}, {3, 5, 6, 7, 9}, {2, 1}})
    EXPECT_EQ(from_ranges(to_ranges(ranks)), ranks);
  EXPECT_EQ(to_ranges(std::vector{0, 1, 2, 7, 9, 10}), "0-2,7,9-10");
  EXPECT_EQ(from_ranges("not a list"), std::vector<int>());
}

// dp 25 x pp 5 x tp 8. Rank 203 is stopped; its tp group waits for it in a sum, the stages next to it in
// receives, all others in a sum over dp or in receives from their own pipelines.
TEST(HangReport, AThousandRanksFitAScreen) {
  constexpr int kTp = 8, kPp = 5, kDp = 25, kLost = 203;
  std::vector<RankState> ranks;
  for (int rank = 0; rank < kDp * kPp * kTp; ++rank) {
    const int tp = rank % kTp, pp = rank / kTp % kPp, dp = rank / (kTp * kPp);
    const std::string name = fmt::format("student dp{} pp{} tp{}", dp, pp, tp);
    std::vector<int> group;
    if (rank == kLost) {
      ranks.push_back(state(rank, Kind::silent, 600.2, name, "send 'pipeline activation' on student.pp"));
      ranks.back().stopped = true;
    } else if (dp == kLost / (kTp * kPp) && pp == kLost / kTp % kPp) {
      for (int t = 0; t < kTp; ++t) group.push_back(rank - tp + t);
      ranks.push_back(
          state(rank, Kind::waiting, 600.1, name,
                fmt::format("all_reduce sum 'mlp' f32[64, 64] on student.tp (world ranks {}), call {}",
                            to_ranges(group), 5000 + rank),
                group));
    } else if (dp == kLost / (kTp * kPp)) {
      const int peer = rank + (pp > kLost / kTp % kPp ? -kTp : kTp);
      ranks.push_back(
          state(rank, Kind::waiting, 599, name,
                fmt::format("receive 'pipeline gradient' f32[64, 64] with world rank {} on student.pp "
                            "(world ranks 1,2), call {}",
                            peer, rank),
                {peer}));
    } else {
      for (int d = 0; d < kDp; ++d) group.push_back((d * kPp + pp) * kTp + tp);
      ranks.push_back(
          state(rank, Kind::waiting, 590 + dp, name,
                fmt::format("all_reduce sum 'gradients' f32[1024] on student.dp (world ranks {}), call {}",
                            to_ranges(group), rank),
                group));
    }
  }
  const std::string report = hang_report(ranks);
  EXPECT_LE(std::count(report.begin(), report.end(), '\n'), 24) << report;
  for (size_t at = 0, end; (end = report.find('\n', at)) != std::string::npos; at = end + 1)
    EXPECT_LE(end - at, 400u) << report.substr(at, end - at);
  EXPECT_EQ(report.find(
                "wuneng: hang: rank 203 (student dp5 pp0 tp3; h25, process 1203) did not answer: no sign "
                "of life for 600.2 s, process stopped (SIGSTOP); at step 12, micro-batch 1; last call: send "
                "'pipeline activation' on student.pp\n  999 of 1000 ranks wait for it"),
            0u)
      << report;
  EXPECT_THAT(report,
              HasSubstr("ranks 0-199,240-999 (student dp0-4,6-24 pp0-4 tp0-7; h0 .. h124, 120 hosts)"));
  EXPECT_THAT(report, HasSubstr("ranks 208-239 (student dp5 pp1-4 tp0-7; h26 .. h29, 4 hosts)"));
  EXPECT_THAT(report,
              HasSubstr("ranks 200-202,204-207 (student dp5 pp0 tp0-2,4-7; h25) wait 600.1 s in all_reduce "
                        "sum 'mlp' f32[64, 64] on student.tp at step 12, micro-batch 1 for rank 203"));
}

TEST(HangReport, RanksThatWaitForEachOther) {
  const std::string report =
      hang_report({state(0, Kind::waiting, 5, "a", "receive 'x' on world, call 1", {1}),
                   state(1, Kind::waiting, 5, "b", "receive 'y' on world, call 1", {0})});
  EXPECT_THAT(report, AllOf(HasSubstr("wait for each other"), HasSubstr("in receive 'x' on world at step 12, "
                                                                        "micro-batch 1 for rank 1\n")));
}

TEST(HangReport, ACallThatAllAreInAndThatDoesNotEnd) {
  const std::string call = "all_reduce sum 'x' on world (world ranks 0-1), call ";
  const std::string report = hang_report({state(0, Kind::waiting, 5, "a", call + "1", {0, 1}),
                                          state(1, Kind::waiting, 6, "a", call + "2", {0, 1})});
  EXPECT_THAT(report,
              AllOf(HasSubstr("they do not end"), HasSubstr("ranks 0-1 (a; h0) wait 5.0 to 6.0 s in all_"),
                    Not(HasSubstr(" for rank"))));
}

TEST(HangReport, DifferentCallsOfOneGroup) {
  const std::string report = hang_report(
      {state(0, Kind::waiting, 5, "a", "barrier 'x' on world (world ranks 0-1), call 3", {0, 1}),
       state(1, Kind::waiting, 5, "b", "barrier 'y' on world (world ranks 0-1), call 3", {0, 1})});
  EXPECT_THAT(report,
              AllOf(HasSubstr("wait for each other"), HasSubstr("'x' on world at step 12, micro-batch 1 for "
                                                                "rank 1\n")));
}

TEST(HangReport, RanksThatNeverCameOrHaveGone) {
  std::vector<RankState> ranks = {
      state(0, Kind::waiting, 5, "a", "MPI_Init, which waits for all ranks", {0, 1, 2, 3}),
      RankState{.rank = 1}, RankState{.rank = 2}, state(3, Kind::gone, 4, "d", "barrier 'x' on world")};
  EXPECT_THAT(
      hang_report(ranks),
      AllOf(HasSubstr("ranks 1-2 were never heard of: not started, or stopped before it could connect\n  1 "
                      "of 4 ranks wait for them"),
            HasSubstr("rank 3 (d; h0, process 1003) ended or died: connection closed 4.0 s ago"),
            HasSubstr("in MPI_Init, which waits for all ranks at step 12, micro-batch 1 for ranks 1-3\n")));
}

}  // namespace
}  // namespace wuneng::hang_report_test

// Who sends what of the teacher's signals: over all small layouts, each element that a rank wants comes to it
// once, from a rank that holds it; and no schedule waits for the stream in a circle.
#include "parallel/stream_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <set>

namespace wuneng::stream_plan_test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TeacherSignal signal(int64_t width, std::vector<Range> teacher, std::vector<Range> student,
                     const std::string& name = "s") {
  return {name, width, DType::f32, {0, std::move(teacher)}, {0, std::move(student)}};
}

bool within(const Range& inner, const Range& outer) {
  return outer.begin <= inner.begin && inner.end <= outer.end;
}

// Holds the plan of one signal against its layouts, element by element.
void expect_tiled(const TeacherSignal& s, int64_t rows) {
  const auto transfers = stream_transfers({s}, rows);
  for (size_t rank = 0; rank < s.student.columns.size(); ++rank) {
    std::vector<int> copies(rows * s.width, 0);
    for (const Transfer& t : transfers) {
      ASSERT_TRUE(t.signal == 0 && t.rows.size() > 0 && t.columns.size() > 0);
      ASSERT_TRUE(within(t.rows, {0, rows}) && within(t.columns, s.teacher.columns.at(t.teacher_tp)));
      if (t.student_tp != static_cast<int>(rank)) continue;
      for (int64_t row = t.rows.begin; row < t.rows.end; ++row)
        for (int64_t column = t.columns.begin; column < t.columns.end; ++column)
          ++copies[row * s.width + column];
    }
    for (int64_t i = 0; i < rows * s.width; ++i)
      ASSERT_EQ(copies[i], within({i % s.width, i % s.width + 1}, s.student.columns[rank]));
  }
}

// All ranges of 0..width, some of them empty.
std::vector<Range> ranges(int64_t width) {
  std::vector<Range> out;
  for (int64_t begin = 0; begin <= width; ++begin)
    for (int64_t end = begin; end <= width; ++end) out.push_back({begin, end});
  return out;
}

TEST(StreamPlan, EveryWantedElementComesOnceFromARankThatHoldsIt) {
  int planned = 0, refused = 0;
  const auto all = ranges(4);
  for (const Range& a : all)
    for (const Range& b : all)
      for (const Range& c : all) {
        const auto held = [&](int64_t x) {
          for (const Range& r : {a, b, c})
            if (within({x, x + 1}, r)) return true;
          return false;
        };
        for (const Range& wanted : all) {
          const TeacherSignal s = signal(4, {a, b, c}, {wanted, {0, 0}});
          bool there = true;
          for (int64_t x = wanted.begin; x < wanted.end; ++x) there = there && held(x);
          if (there) {
            for (const int64_t rows : {1, 2, 5}) expect_tiled(s, rows);
            ++planned;
          } else {
            ASSERT_THAT([&] { stream_transfers({s}, 5); },
                        ThrowsMessage<Error>(HasSubstr("which student tp rank 0 wants")));
            ++refused;
          }
        }
      }
  EXPECT_GT(planned, 10000);
  EXPECT_GT(refused, 10000);
}

// The logits of two vocabularies: one part for each pair of ranks with columns in common, of all rows.
TEST(StreamPlan, ShardedOnBothSides) {
  for (int student = 1; student <= 8; ++student)
    for (int teacher = 1; teacher <= 8; ++teacher)
      for (const auto& [wanted, width] : {std::pair<int64_t, int64_t>{251, 263}, {259, 259}, {10, 100}}) {
        TeacherSignal s{"logits", width, DType::f32, sharded_columns(0, teacher, width),
                        sharded_columns(0, student, wanted)};
        expect_tiled(s, 3);
        std::set<std::pair<int, int>> pairs;
        for (const Transfer& t : stream_transfers({s}, 3)) {
          EXPECT_TRUE(pairs.emplace(t.teacher_tp, t.student_tp).second);
          EXPECT_EQ(t.rows, (Range{0, 3}));
        }
      }
}

TEST(StreamPlan, RanksThatHoldTheSameSendAlike) {
  for (int student = 1; student <= 4; ++student)
    for (int teacher = 1; teacher <= 4; ++teacher)
      for (const auto& wanted : {replicated_columns(0, student, 12), sharded_columns(0, student, 12)}) {
        const TeacherSignal s{"hidden", 12, DType::f32, replicated_columns(0, teacher, 12), wanted};
        expect_tiled(s, 7);
        std::vector<int64_t> sent(teacher, 0);  // rows that each sends to each student rank
        for (const Transfer& t : stream_transfers({s}, 7)) sent[t.teacher_tp] += t.rows.size();
        for (const int64_t rows : sent) EXPECT_LE(std::abs(rows - 7.0 * student / teacher), student);
      }
}

TEST(StreamPlan, GatheredRowsCrossOnce) {
  for (int teacher_tp = 1; teacher_tp <= 4; ++teacher_tp)
    for (int student_tp = 1; student_tp <= 4; ++student_tp)
      for (int64_t rows = 1; rows <= 9; ++rows) {
        const TeacherSignal s{"s", 6, DType::f32, replicated_columns(0, teacher_tp, 6),
                              gathered_columns(0, student_tp, 6)};
        std::vector<int> copies(rows, 0), from(teacher_tp, 0);
        for (const Transfer& t : stream_transfers({s}, rows)) {
          EXPECT_EQ(t.columns, (Range{0, 6}));
          EXPECT_TRUE(within(t.rows, gathered_rows(rows, student_tp, t.student_tp)));
          for (int64_t row = t.rows.begin; row < t.rows.end; ++row) ++copies[row], ++from[t.teacher_tp];
        }
        EXPECT_EQ(copies, std::vector<int>(rows, 1));
        EXPECT_LE(*std::max_element(from.begin(), from.end()), rows / teacher_tp + student_tp);
      }
}

TEST(StreamPlan, SignalsThatCannotBe) {
  const auto refuses = [](std::vector<TeacherSignal> signals, const char* why) {
    EXPECT_THAT([&] { stream_transfers(signals, 2); }, ThrowsMessage<Error>(HasSubstr(why)));
  };
  refuses({signal(0, {{0, 0}}, {{0, 0}})}, "'s': expected a positive width, found 0");
  refuses({signal(4, {{0, 5}}, {{0, 4}})}, "columns within 0..4, found 0..5 on teacher tp rank 0");
  refuses({signal(4, {{0, 4}}, {{0, 4}, {3, 2}})}, "columns within 0..4, found 3..2 on student tp rank 1");
  refuses({signal(4, {{0, 4}}, {{0, 4}}), signal(3, {{0, 3}}, {{0, 3}})}, "'s': expected names that differ");
  refuses({signal(4, {{0, 4}}, {{0, 4}}, "")}, "expected a name");
  EXPECT_THAT([] { stream_transfers({}, 0); }, ThrowsMessage<Error>(HasSubstr("number of rows, found 0")));
}

TEST(StreamPlan, EveryItemIsServedOnceAndEvenly) {
  for (int student = 1; student <= 4; ++student)
    for (int teacher = 1; teacher <= 4; ++teacher) {
      const StreamShape shape{.student_dp = student, .teacher_dp = teacher, .micro_batches = 3};
      std::set<int64_t> served;
      std::vector<int64_t> load(teacher, 0);
      for (int64_t pass = 0; pass < 8; ++pass)
        for (int replica = 0; replica < teacher; ++replica)
          for (const StreamItem& item : items_served(shape, pass, replica)) {
            EXPECT_TRUE(served.insert(item_index(shape, item)).second);
            EXPECT_EQ(serving_replica(shape, item), replica);
            ++load[replica];
          }
      EXPECT_EQ(static_cast<int64_t>(served.size()), 8 * 3 * student);
      EXPECT_LE(*std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()), 1);
    }
}

// A run of teacher and student stages, played with the stream's waits: sends never block; receives, frames
// and credits do. Every teacher stage sends to every student stage of at least `first`.
class Play {
 public:
  Play(int teacher_stages, int student_stages, int chunks, int first, int credits, int micro_batches)
      : teachers_(teacher_stages), students_(student_stages), chunks_(chunks), first_(first) {
    for (int q = 0; q < students_; ++q) {
      std::vector<TeacherSignal> signals = {signal(1, {{0, 1}}, {{0, 1}})};
      signals[0].student.stage = first;
      credits_.push_back(stream_credits(signals, credits, std::max(q, first)));
    }
    released_.resize(students_, 0);
    for (int s = 0; s < teachers_; ++s) ranks_.push_back(teacher(s, 2 * micro_batches));
    for (int q = 0; q < students_; ++q) ranks_.push_back(student(q, micro_batches));
  }

  bool ends() {
    for (bool moved = true; std::exchange(moved, false);)
      for (Rank& rank : ranks_)
        while (rank.at < rank.program.size() && rank.program[rank.at]()) ++rank.at, moved = true;
    return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.at == r.program.size(); });
  }

 private:
  struct Rank {
    std::vector<std::function<bool()>> program;  // each is called until it is true
    size_t at = 0;
  };
  using Message = std::array<int, 3>;  // what, to which stage, micro-batch of the run
  enum { hidden, activation, gradient };

  auto sends(Message m) {
    return [this, m] { return messages_.insert(m).second; };
  }
  auto receives(Message m) {
    return [this, m] { return messages_.contains(m); };
  }

  Rank teacher(int s, int micro_batches) {
    Rank out;
    for (int m = 0; m < micro_batches; ++m) {
      if (s > 0) out.program.push_back(receives({hidden, s, m}));
      for (int q = first_; q < students_; ++q) {
        out.program.push_back([this, q, m] { return m - released_[q] < credits_[q]; });
        out.program.push_back(sends({100 + s, q, m}));
      }
      out.program.push_back(sends({hidden, s + 1, m}));
    }
    return out;
  }

  void forward(Rank& rank, int q, int chunk, int m) {
    const int stage = chunk * students_ + q;
    if (stage > 0) rank.program.push_back(receives({activation, stage, m}));
    if (chunk == 0 && q >= first_) {  // the rank takes the micro-batch and releases it
      for (int s = 0; s < teachers_; ++s) rank.program.push_back(receives({100 + s, q, m}));
      rank.program.push_back([this, q] { return ++released_[q] > 0; });
    }
    rank.program.push_back(sends({activation, stage + 1, m}));
  }
  void backward(Rank& rank, int q, int chunk, int m) {
    const int stage = chunk * students_ + q;
    if (stage < chunks_ * students_ - 1) rank.program.push_back(receives({gradient, stage, m}));
    rank.program.push_back(sends({gradient, stage - 1, m}));
  }

  // Two passes of 1F1B, interleaved where there are several chunks (Narayanan et al. 2021, figure 4).
  Rank student(int q, int micro_batches) {
    Rank out;
    const int total = micro_batches * chunks_, cycle = students_ * chunks_,
              ahead = std::min(total, chunks_ == 1 ? students_ - q - 1
                                                   : 2 * (students_ - q - 1) + (chunks_ - 1) * students_);
    for (const int begin : {0, micro_batches}) {
      const auto m = [&](int i) { return begin + i / cycle * students_ + i % students_; };
      for (int i = 0; i < total + ahead; ++i) {
        if (i < total) forward(out, q, i % cycle / students_, m(i));
        if (const int b = i - ahead; b >= 0) backward(out, q, chunks_ - 1 - b % cycle / students_, m(b));
      }
    }
    return out;
  }

  int teachers_, students_, chunks_, first_;
  std::vector<int> credits_, released_;  // by student stage
  std::set<Message> messages_;
  std::vector<Rank> ranks_;
};

TEST(StreamPlan, NoScheduleWaitsForTheStreamInACircle) {
  for (int teacher = 1; teacher <= 3; ++teacher)
    for (int student = 1; student <= 8; ++student)
      for (int chunks = 1; chunks <= 3; ++chunks)
        for (int first = 0; first < student; ++first)
          for (const int credits : {1, 2})
            for (const int micro_batches : {student, 3 * student}) {
              EXPECT_TRUE(Play(teacher, student, chunks, first, credits, micro_batches).ends())
                  << teacher << " teacher stages, " << student << " student stages of " << chunks
                  << " chunks, " << micro_batches << " micro-batches, first " << first << ", credits "
                  << credits;
            }
}

}  // namespace
}  // namespace wuneng::stream_plan_test

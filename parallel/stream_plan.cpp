#include "parallel/stream_plan.h"

#include <algorithm>
#include <set>

namespace wuneng {
namespace {

void check(const TeacherSignal& signal) {
  require(!signal.name.empty(), "teacher signal: expected a name, found none (width {})", signal.width);
  require(signal.width > 0, "teacher signal '{}': expected a positive width, found {}", signal.name,
          signal.width);
  for (const auto& [side, layout] : {std::pair("teacher", signal.teacher), {"student", signal.student}})
    for (size_t rank = 0; rank < layout.columns.size(); ++rank) {
      const Range& c = layout.columns[rank];
      require(0 <= c.begin && c.begin <= c.end && c.end <= signal.width,
              "teacher signal '{}': expected columns within 0..{}, found {}..{} on {} tp rank {}",
              signal.name, signal.width, c.begin, c.end, side, rank);
      require(
          !layout.gathered || c == layout.columns[0],
          "teacher signal '{}': expected the same columns on all {} tp ranks that gather it, found {}..{} "
          "on rank 0 and {}..{} on rank {}",
          signal.name, side, layout.columns[0].begin, layout.columns[0].end, c.begin, c.end, rank);
    }
  require(!signal.teacher.gathered,
          "teacher signal '{}': expected only the student's ranks to gather it, "
          "found the teacher's",
          signal.name);
}

// `wanted`, divided where a teacher's rank begins or ends: each piece is held by a rank as a whole or not at
// all.
std::vector<Range> pieces(const Range& wanted, const std::vector<Range>& held) {
  std::set<int64_t> ends{wanted.begin, wanted.end};
  for (const Range& h : held)
    if (h.size() > 0)
      for (const int64_t end : {h.begin, h.end})
        if (wanted.begin < end && end < wanted.end) ends.insert(end);
  std::vector<Range> out;
  for (auto next = std::next(ends.begin()); next != ends.end(); ++next)
    out.push_back({*std::prev(next), *next});
  return out;
}

}  // namespace

std::vector<Transfer> stream_transfers(const std::vector<TeacherSignal>& signals, int64_t rows) {
  require(rows > 0, "teacher stream: expected micro-batches of a positive number of rows, found {}", rows);
  std::vector<Transfer> out;
  std::set<std::string> names;
  for (size_t i = 0; i < signals.size(); ++i) {
    const TeacherSignal& signal = signals[i];
    check(signal);
    require(names.insert(signal.name).second,
            "teacher signal '{}': expected names that differ, found it twice", signal.name);
    const int tp = static_cast<int>(signal.student.columns.size());
    for (int to = 0; to < tp; ++to) {
      const Range wanted = signal.student.gathered ? gathered_rows(rows, tp, to) : Range{0, rows};
      for (const Range& piece : pieces(signal.student.columns[to], signal.teacher.columns)) {
        std::vector<int> holders;
        for (size_t from = 0; from < signal.teacher.columns.size(); ++from)
          if (const Range& held = signal.teacher.columns[from];
              held.begin <= piece.begin && piece.end <= held.end)
            holders.push_back(static_cast<int>(from));
        const int count = static_cast<int>(holders.size());
        require(count > 0,
                "teacher signal '{}': no teacher rank holds columns {}..{}, which student tp rank {} wants",
                signal.name, piece.begin, piece.end, to);
        for (int part = 0; part < count; ++part)
          if (const Range share = shard_range(wanted.size(), count, part); share.size() > 0)
            out.push_back({static_cast<int>(i),
                           holders[part],
                           to,
                           {wanted.begin + share.begin, wanted.begin + share.end},
                           piece});
      }
    }
  }
  return out;
}

int stream_credits(const std::vector<TeacherSignal>& signals, int credits, int student_stage) {
  int first = student_stage;
  for (const TeacherSignal& signal : signals) first = std::min(first, signal.student.stage);
  return credits + student_stage - first;
}

std::vector<StreamItem> items_served(const StreamShape& s, int64_t pass, int teacher_dp) {
  std::vector<StreamItem> out;
  for (int m = 0; m < s.micro_batches; ++m)
    for (int dp = 0; dp < s.student_dp; ++dp)
      if (const StreamItem item{pass, m, dp}; serving_replica(s, item) == teacher_dp) out.push_back(item);
  return out;
}

}  // namespace wuneng

#include "parallel/stream_plan.h"

#include <algorithm>

namespace wuneng {

std::vector<StreamSlice> stream_slices(const StreamShape& s) {
  std::vector<StreamSlice> out;
  for (int student = 0; student < s.student_tp; ++student)
    for (int teacher = 0; teacher < s.teacher_tp; ++teacher) {
      const Range a = shard_range(s.student_vocab, s.student_tp, student),
                  b = shard_range(s.teacher_vocab, s.teacher_tp, teacher);
      const Range both{std::max(a.begin, b.begin),
                       std::min(a.end, b.end)};  // ends at the smaller vocabulary by itself
      if (both.size() > 0) out.push_back({teacher, student, both});
    }
  return out;
}

std::vector<StreamItem> items_served(const StreamShape& s, int64_t round, int teacher_dp) {
  std::vector<StreamItem> out;
  for (int m = 0; m < s.micro_batches; ++m)
    for (int dp = 0; dp < s.student_dp; ++dp)
      if (const StreamItem item{round, m, dp}; serving_replica(s, item) == teacher_dp) out.push_back(item);
  return out;
}

}  // namespace wuneng

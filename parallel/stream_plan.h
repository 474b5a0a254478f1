// Who sends which of the teacher's logits to whom: pure functions of the two layouts, the same on both sides.
#pragma once
#include <cstdint>
#include <vector>

#include "parallel/parameter.h"

namespace wuneng {

struct StreamShape {
  int student_dp = 1, student_tp = 1, teacher_dp = 1, teacher_tp = 1;
  int64_t student_vocab = 0, teacher_vocab = 0;
  int micro_batches = 1;  // of a round (a training step or a piece of an evaluation), per student replica
  int64_t shared_vocab() const { return student_vocab < teacher_vocab ? student_vocab : teacher_vocab; }
};

// Vocabulary columns that a teacher's tp rank holds and a student's tp rank wants.
struct StreamSlice {
  int teacher_tp, student_tp;
  Range columns;
};
// In order of student rank, then columns. The slices of one student rank tile its part of the shared
// vocabulary.
std::vector<StreamSlice> stream_slices(const StreamShape& shape);

// One micro-batch of one student replica in one round.
struct StreamItem {
  int64_t round;
  int micro_batch, student_dp;
  bool operator==(const StreamItem&) const = default;
};
// Items are numbered by round, micro-batch, replica, and dealt out to the teacher's replicas in turn.
inline int64_t item_index(const StreamShape& s, const StreamItem& i) {
  return (i.round * s.micro_batches + i.micro_batch) * s.student_dp + i.student_dp;
}
inline int serving_replica(const StreamShape& s, const StreamItem& i) {
  return static_cast<int>(item_index(s, i) % s.teacher_dp);
}
// The items of a round that a teacher's replica serves, in order.
std::vector<StreamItem> items_served(const StreamShape& shape, int64_t round, int teacher_dp);

}  // namespace wuneng

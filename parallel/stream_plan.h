// Which rank sends which part of the teacher's signals to whom: pure functions of the layouts, the same on
// both sides.
#pragma once
#include <cstdint>
#include <numeric>
#include <vector>

#include "parallel/teacher_signal.h"

namespace wuneng {

// A rectangle of a signal that one tp rank of its teacher's stage sends to one tp rank of its student's.
struct Transfer {
  int signal;  // its index in the list of signals
  int teacher_tp, student_tp;
  Range rows, columns;
};
// Of a micro-batch of `rows` rows, in order of signal, student rank, columns and rows. What a student's rank
// wants is tiled exactly once. Columns that k teacher ranks hold are shared out among them by rows, a k-th
// each. Of a gathered signal a student's rank wants its share of the rows, gathered_rows(). Throws where a
// layout is not one, or where no teacher rank holds what is wanted.
std::vector<Transfer> stream_transfers(const std::vector<TeacherSignal>& signals, int64_t rows);

// The rows of a gathered signal that a tp rank of the student is sent.
inline Range gathered_rows(int64_t rows, int tp, int rank) { return shard_range(rows, tp, rank); }

// How many micro-batches a teacher's rank may send a rank of this student stage ahead of its use. `credits`
// for the first stage that receives signals, and one more for each stage behind that: in 1F1B stage q begins
// q micro-batches behind stage 0, and the teacher is not to be held up by that.
int stream_credits(const std::vector<TeacherSignal>& signals, int credits, int student_stage);

// One micro-batch of one student replica in one pass. A pass takes `micro_batches` micro-batches through the
// pipeline of each replica: a training step, or a part of an evaluation.
struct StreamItem {
  int64_t pass;
  int micro_batch, student_dp;
  bool operator==(const StreamItem&) const = default;
};
struct StreamShape {
  int student_dp = 1, teacher_dp = 1;
  int micro_batches = 1;  // of a pass, per student replica
};
// Items are numbered by pass, micro-batch, replica, and dealt out to the teacher's replicas in turn.
inline int64_t item_index(const StreamShape& s, const StreamItem& i) {
  return (i.pass * s.micro_batches + i.micro_batch) * s.student_dp + i.student_dp;
}
inline int serving_replica(const StreamShape& s, const StreamItem& i) {
  return static_cast<int>(item_index(s, i) % s.teacher_dp);
}
// How many of the teacher's replicas serve one of the student's, in turn.
inline int replicas_that_serve(const StreamShape& s) {
  return s.teacher_dp / std::gcd(s.student_dp, s.teacher_dp);
}
// The items of a pass that a teacher's replica serves, in order.
std::vector<StreamItem> items_served(const StreamShape& shape, int64_t pass, int teacher_dp);

}  // namespace wuneng

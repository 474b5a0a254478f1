// StopAgreement: where a run ends early that a signal (runtime/signals.h) has asked to stop.
//
// Boundary p lies before pass p. The student's ranks agree at every boundary, in a reduction that they need
// anyway (Trainer::meet), and stop at boundary P if one rank of either role has been signalled. The teacher's
// ranks are ahead of them by up to `lead` passes, so they stop at boundary P + lead, and the student throws
// away what they send until then. To that end each teacher's rank has one student's rank to talk to, in
// messages of one number:
// - at boundary p it says whether it has been signalled; the student reads that at boundary p + 1;
// - at boundary p + lead it reads what the student has decided at boundary p.
// Every message sent is received, at an early end as at the planned one. Nobody waits in a circle: a student
// at boundary p waits for what a teacher has sent before it served pass p - 1, and a teacher at boundary p
// for what a student has sent at boundary p - lead, where lead >= 1.
#pragma once
#include <algorithm>
#include <deque>
#include <functional>

#include "parallel/mesh.h"
#include "runtime/signals.h"

namespace wuneng {

// How many passes a teacher's rank may be ahead of the student, so that its credits hold it up and not this:
// with `credits` micro-batches to each receiver and `micro_batches` a pass.
inline int64_t teacher_lead(int credits, int teacher_replicas, int64_t micro_batches) {
  return int64_t{credits} * teacher_replicas / micro_batches + 1;
}

// How a rank's part of the run ended.
struct RunEnd {
  double data_wait;  // seconds that the rank waited for micro-batches
  bool stopped;      // before the planned end
};

class StopAgreement {
 public:
  // The passes of the run are [first, end). requested: the signal that this rank has received; 0: none.
  using Requested = std::function<int()>;
  StopAgreement(const Mesh& mesh, int64_t lead, int64_t first, int64_t end,
                Requested requested = signals::stop_requested);

  // The teacher's ranks, before each pass: whether the run has ended.
  bool teacher_stops(int64_t pass);

  // The student's ranks, before each pass and after the last: the signal that this rank, or one of the
  // teacher's that talk to it, has received; 0: none.
  int signalled(int64_t pass);
  // And then what they have agreed upon: whether they stop before this pass.
  void decide(int64_t pass, bool stop);
  // After a stop: the pass before which the teacher ends.
  int64_t teacher_end(int64_t pass) const { return std::min(pass + lead_, end_); }

  void finish();  // waits until all messages have been received

 private:
  void send(int64_t value, int peer, int tag, const char* what);
  int64_t receive(int peer, int tag, const char* what);

  Comm world_;
  int64_t lead_, first_, end_;
  Requested requested_;
  std::vector<int> partners_;  // world ranks: of a student's rank the teacher's, of a teacher's rank one
  std::deque<Request> sends_;
};

}  // namespace wuneng

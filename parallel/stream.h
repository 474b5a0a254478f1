// The teacher's stream: logits from the teacher's last-stage ranks to the student's, a bounded number of
// micro-batches ahead.
//
// A frame is a 64-byte header (what it is) and, a message of its own, the logits [T, columns] of one slice:
// from the teacher's device to the student's, by NCCL where Comm::connect_messages has made a way. A sender
// holds `credits` frames per receiver; the receiver gives one back when it has used a frame, so memory is
// credits frames on either side's device and nobody waits for the other's step. The receiver checks every
// header against what it expects: a mismatch is an error, never a wrong loss.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "parallel/mesh.h"
#include "parallel/stream_plan.h"

namespace wuneng {

// A part of the teacher's logits for a micro-batch: columns in the vocabulary, [T, columns.size()] f32 or
// bf16.
struct TeacherSlice {
  Range columns;
  Tensor logits;
};

// Where the student's last-stage rank gets the teacher's logits from: the stream below, or a teacher in the
// same process.
class TeacherSource {
 public:
  virtual ~TeacherSource() = default;
  // The slices that cover this rank's part of the shared vocabulary; valid until release().
  virtual std::vector<TeacherSlice> take(int64_t round, int micro_batch) = 0;
  virtual void release() = 0;
};

struct StreamOptions {
  StreamShape shape;
  int credits = 2;
  DType dtype = DType::f32;
  int64_t rows = 0;                        // T, of every micro-batch
  Device device = {};                      // where this rank has the logits or wants them
  int64_t first_round = 0, end_round = 0;  // the rounds of this run
};

// Whom frames go from and to, by world rank: the last stages' ranks with a slice in common.
std::vector<Comm::Channel> stream_ways(const Mesh& mesh, const StreamShape& shape);

class TeacherSender {
 public:
  // `stream` spans the world. For the teacher's last-stage ranks.
  TeacherSender(const Comm& stream, const Mesh& mesh, const StreamOptions& options);
  // Writes the logits of some of this rank's columns, of shard_range(teacher_vocab, tp, rank), into a frame
  // [T, columns.size()] of the stream's type on options.device.
  using Write = std::function<void(Range columns, const Tensor& frame)>;
  // Calls `write` for each slice, and waits before it while the receiver has no credit left.
  void send(const StreamItem& item, const Write& write);
  void flush();  // waits until everything has been received and used

 private:
  struct Receiver {
    int outstanding = 0;
    std::deque<Request> sends;  // a frame is two
  };
  void take_credit(int rank, Receiver& receiver);
  Comm stream_;
  Mesh mesh_;
  StreamOptions options_;
  std::vector<StreamSlice> slices_;    // of this rank
  std::map<int, Receiver> receivers_;  // by world rank
};

class StreamedTeacher : public TeacherSource {
 public:
  // For the student's last-stage ranks. Posts the first receives.
  StreamedTeacher(const Comm& stream, const Mesh& mesh, const StreamOptions& options);
  std::vector<TeacherSlice> take(int64_t round, int micro_batch) override;
  void release() override;

 private:
  struct Frame {
    Tensor header, logits;
  };
  struct Posted {
    Frame frame;
    Request header, logits;
  };
  struct Sender {
    int world_rank, replica;
    StreamSlice slice;
    std::deque<Posted> posted;
    std::deque<StreamItem> to_post;  // what it will still send beyond the posted ones
  };
  void post(Sender& sender, Frame frame);
  Comm stream_;
  Mesh mesh_;
  StreamOptions options_;
  std::vector<Sender> senders_;
  std::vector<std::pair<Sender*, Frame>> taken_;
};

}  // namespace wuneng

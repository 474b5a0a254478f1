// The teacher's stream: signals (teacher_signal.h) from the teacher's ranks to the student's, a bounded
// number of micro-batches ahead. Which part of which signal goes where: stream_plan.h.
//
// A frame is an 80-byte header (what it is) and, a message of its own, the values [rows, columns] of one
// Transfer: from the teacher's device to the student's, by NCCL where Comm::connect_messages has made a way.
// All frames of one micro-batch from one rank to another are a group. A sender may have stream_credits groups
// under way to a receiver; the receiver gives a credit back when it has used a group, so memory is that many
// groups on either side's device and nobody waits for the other's step. The receiver checks every header
// against what it expects: a mismatch is an error, never a wrong loss.
//
// Why nobody waits in a circle. Number the micro-batches of the run through all its passes.
// - A teacher's stage takes them in order. For n it waits for the stage before it (for the same n) and, for
//   each student stage q that it sends to, until q has released n - c(q), where c(q) = stream_credits >= 1.
//   Sends do not block.
// - A student's stage takes them in order. For m it waits for the teacher's frames of m and for whatever its
//   schedule puts before that. Replicas wait for each other between passes only.
// - So it is enough that no stage q, before its take of m, waits for another stage's take of m + c(q) or
//   later: along any chain of waits from the teacher to the student and back the number falls.
// - Where a rank holds one chunk of the model, it waits for no take after m at all. Suppose that it waits for
//   stage r's forward of n > m. What follows that forward on r in the chain is a backward, since forwards are
//   in order; backwards wait for those of later stages, so the chain came from a stage a <= r and its forward
//   of some m' <= m. But r's forward of n needs a's of n, which comes after a's of m': the schedule would
//   wait in a circle without any teacher, and validate() in schedule_validator.h refuses it. When backwards
//   run, and whether those of weights run apart, does not matter.
// - Interleaved (several chunks on a rank): a rank takes m once, at its first chunk's forward, keeps copies
//   of what later chunks read, and releases at once. In interleaved 1F1B stage q may wait for a take of stage
//   r < q that is q - r - 2 micro-batches ahead, which is less than c(q).
// tests/unit/stream_plan_test.cpp runs such schedules against the stream's waits.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <optional>

#include "parallel/mesh.h"
#include "parallel/stream_plan.h"

namespace wuneng {

struct StreamOptions {
  // In the order in which each teacher stage makes those of its own.
  std::vector<TeacherSignal> signals;
  int64_t rows = 0;                      // T, of every micro-batch
  int micro_batches = 1;                 // of a pass, per student replica
  int credits = 2;                       // see stream_credits
  Device device = {};                    // where this rank has its signals or wants them
  int64_t first_pass = 0, end_pass = 0;  // the passes of this run
};

StreamShape stream_shape(const Mesh& mesh, int micro_batches);
// Whom frames go from and to, by world rank, each pair once.
std::vector<Comm::Channel> stream_channels(const Mesh& mesh, const StreamOptions& options);
// Collective over `stream`, which spans the world: frames go by NCCL (Comm::connect_messages). A frame has
// one multiprocessor, and only when its receiver is ready: the teacher is ahead, so that several of them
// wait.
void connect_stream(const Comm& stream, const Mesh& mesh, const StreamOptions& options);

class TeacherSender {
 public:
  // `stream` spans the world. For every rank of the teacher.
  TeacherSender(const Comm& stream, const Mesh& mesh, const StreamOptions& options);
  // Fills part.values [part.rows, part.columns], of the signal's type on options.device.
  using Write = std::function<void(const SignalPart& part)>;
  // Collective over the stage's tp ranks, before each item's forward. Where sends wait for their receivers
  // they go on in this host's calls. Launches may block the host while the GPU waits for another tp rank's;
  // that one must not be waiting for a credit then, which may need this rank's sends.
  void meet() const;
  // Sends what this rank owes of one of its stage's signals: calls `write` for each part, and waits before it
  // while the receiver has no credit left. For each item every signal of the stage is sent, in the order of
  // options.signals.
  void send(const std::string& signal, const StreamItem& item, const Write& write);
  void flush();  // waits until everything has been received and used

 private:
  struct Receiver {
    std::optional<StreamItem> item;  // whose group is under way
    int groups = 0;                  // not yet used
    std::deque<Request> sends;
  };
  int next_signal(const std::string& signal, const StreamItem& item);
  void begin_group(int rank, Receiver& receiver, const StreamItem& item, int credits);
  void take_credit(int rank, Receiver& receiver);

  Comm stream_;
  Mesh mesh_;
  StreamOptions options_;
  std::vector<int> signals_;         // of this stage
  std::vector<Transfer> transfers_;  // from this rank
  size_t sent_ = 0;                  // how many of signals_ for item_
  StreamItem item_{};
  std::map<int, Receiver> receivers_;  // by world rank
};

class StreamedTeacher : public TeacherSource {
 public:
  // For every rank of the student. Posts the first receives.
  StreamedTeacher(const Comm& stream, const Mesh& mesh, const StreamOptions& options);
  const SignalParts& take(int64_t pass, int micro_batch) override;
  void release() override;
  void stop(int64_t next, int64_t end) override;

 private:
  struct Frame {
    const Transfer* transfer;
    Tensor header, values;
    Request header_received, values_received;
  };
  using Group = std::vector<Frame>;
  struct Sender {
    int world_rank, replica;
    std::vector<Transfer> transfers;  // to this rank, in the order of a group
    int64_t groups;                   // that it will still send beyond the posted ones
    std::deque<Group> posted;
  };
  // The groups that a replica of the teacher sends this rank in passes [begin, end).
  int64_t groups_of(int replica, int64_t begin, int64_t end) const;
  void post(Sender& sender, Group group);
  Group empty_group(const Sender& sender) const;
  void receive(Frame& frame, const Sender& sender, const StreamItem& item);
  void gather(const TeacherSignal& signal);  // collective over tp: all rows of it

  Comm stream_;
  Mesh mesh_;
  StreamOptions options_;
  std::vector<Sender> senders_;
  std::vector<std::pair<Sender*, Group>> taken_;
  SignalParts parts_;
};

}  // namespace wuneng

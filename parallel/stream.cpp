#include "parallel/stream.h"

#include <cstring>
#include <numeric>

namespace wuneng {
namespace {

constexpr int kHeader = 1, kCredit = 2, kLogits = 3;  // message tags of the stream's communicator
constexpr uint64_t kMagic = 0x314d5453'474e4e57;      // "WNNGSTM1"

struct Header {
  uint64_t magic = kMagic;
  int64_t round, rows, column_begin, column_end;
  int32_t micro_batch, student_dp, dtype, reserved = 0;
  int64_t bytes;
};
static_assert(sizeof(Header) == 64);

Header header_of(const StreamItem& item, const Range& columns, const StreamOptions& o) {
  return {.round = item.round,
          .rows = o.rows,
          .column_begin = columns.begin,
          .column_end = columns.end,
          .micro_batch = item.micro_batch,
          .student_dp = item.student_dp,
          .dtype = static_cast<int32_t>(o.dtype),
          .bytes = o.rows * columns.size() * size_of(o.dtype)};
}

Tensor header_buffer() { return Tensor::empty({sizeof(Header)}, DType::u8); }

std::string describe(const Header& h) {
  return fmt::format("round {} micro-batch {} replica {} columns {}..{} of {} rows ({} bytes)", h.round,
                     h.micro_batch, h.student_dp, h.column_begin, h.column_end, h.rows, h.bytes);
}

}  // namespace

std::vector<Comm::Channel> stream_ways(const Mesh& mesh, const StreamShape& shape) {
  const int replicas = std::gcd(shape.teacher_dp, shape.student_dp);  // see serving_replica
  std::vector<Comm::Channel> out;
  for (const StreamSlice& slice : stream_slices(shape))
    for (int from = 0; from < shape.teacher_dp; ++from)
      for (int to = 0; to < shape.student_dp; ++to)
        if ((to - from) % replicas == 0)
          out.push_back({mesh.world_rank(Role::teacher, from, mesh.teacher->pp - 1, slice.teacher_tp),
                         mesh.world_rank(Role::student, to, mesh.student.pp - 1, slice.student_tp)});
  return out;
}

TeacherSender::TeacherSender(const Comm& stream, const Mesh& mesh, const StreamOptions& options)
    : stream_(stream), mesh_(mesh), options_(options) {
  for (const StreamSlice& s : stream_slices(options.shape))
    if (s.teacher_tp == mesh.tp_rank) slices_.push_back(s);
}

void TeacherSender::take_credit(int rank, Receiver& receiver) {
  const Tensor credit = Tensor::empty({1}, DType::i64);
  stream_.recv(credit, rank, kCredit, "credit from the student");
  --receiver.outstanding;
}

void TeacherSender::send(const StreamItem& item, const Write& write) {
  for (const StreamSlice& slice : slices_) {
    const int to = mesh_.world_rank(Role::student, item.student_dp, mesh_.student.pp - 1, slice.student_tp);
    Receiver& receiver = receivers_[to];
    while (receiver.outstanding >= options_.credits) take_credit(to, receiver);
    while (!receiver.sends.empty() && receiver.sends.front().done()) receiver.sends.pop_front();
    const Header header = header_of(item, slice.columns, options_);
    const Tensor frame = header_buffer();
    std::memcpy(frame.raw(), &header, sizeof header);
    const Tensor logits =
        Tensor::empty({options_.rows, slice.columns.size()}, options_.dtype, options_.device);
    write(slice.columns, logits);
    receiver.sends.push_back(stream_.isend(frame, to, kHeader, "header of the teacher's logits"));
    receiver.sends.push_back(stream_.isend(logits, to, kLogits, "teacher's logits"));
    ++receiver.outstanding;
  }
}

void TeacherSender::flush() {
  for (auto& [rank, receiver] : receivers_) {
    for (Request& r : receiver.sends) r.wait();
    receiver.sends.clear();
    while (receiver.outstanding > 0) take_credit(rank, receiver);
  }
}

StreamedTeacher::StreamedTeacher(const Comm& stream, const Mesh& mesh, const StreamOptions& options)
    : stream_(stream), mesh_(mesh), options_(options) {
  const StreamShape& s = options_.shape;
  const int last_stage = mesh.teacher->pp - 1;
  for (int replica = 0; replica < s.teacher_dp; ++replica)
    for (const StreamSlice& slice : stream_slices(s))
      if (slice.student_tp == mesh.tp_rank)
        senders_.push_back(
            {mesh.world_rank(Role::teacher, replica, last_stage, slice.teacher_tp), replica, slice, {}, {}});
  for (int64_t round = options.first_round; round < options.end_round; ++round)
    for (int m = 0; m < s.micro_batches; ++m)
      for (Sender& sender : senders_)
        if (const StreamItem item{round, m, mesh.dp_rank}; serving_replica(s, item) == sender.replica)
          sender.to_post.push_back(item);
  for (Sender& sender : senders_)
    for (int i = 0; i < options.credits; ++i)
      post(sender, {header_buffer(), Tensor::empty({options.rows, sender.slice.columns.size()}, options.dtype,
                                                   options.device)});
}

void StreamedTeacher::post(Sender& sender, Frame frame) {
  if (sender.to_post.empty()) return;
  sender.to_post.pop_front();
  Request header = stream_.irecv(frame.header, sender.world_rank, kHeader, "header of the teacher's logits"),
          logits = stream_.irecv(frame.logits, sender.world_rank, kLogits, "teacher's logits");
  sender.posted.push_back({std::move(frame), std::move(header), std::move(logits)});
}

std::vector<TeacherSlice> StreamedTeacher::take(int64_t round, int micro_batch) {
  WUNENG_ASSERT(taken_.empty());
  const StreamItem item{round, micro_batch, mesh_.dp_rank};
  std::vector<TeacherSlice> out;
  for (Sender& sender : senders_) {
    if (serving_replica(options_.shape, item) != sender.replica) continue;
    require(!sender.posted.empty(),
            "teacher stream: round {} micro-batch {} was not planned (rounds {} to {})", round, micro_batch,
            options_.first_round, options_.end_round);
    Posted next = std::move(sender.posted.front());
    sender.posted.pop_front();
    next.header.wait();
    const Header expected = header_of(item, sender.slice.columns, options_);
    Header found;
    std::memcpy(&found, next.frame.header.raw(), sizeof found);
    if (found.bytes == expected.bytes) next.logits.wait();
    require(std::memcmp(&found, &expected, sizeof found) == 0,
            "teacher stream, frame from world rank {}: expected {}, found {}{}", sender.world_rank,
            describe(expected), describe(found), found.magic == kMagic ? "" : " (not a frame of ours)");
    out.push_back({sender.slice.columns, next.frame.logits});
    taken_.emplace_back(&sender, std::move(next.frame));
  }
  // What has come ahead goes on its way to this device while it works with these.
  for (Sender& sender : senders_)
    for (Posted& posted : sender.posted) posted.logits.done();
  return out;
}

void StreamedTeacher::release() {
  for (auto& [sender, frame] : taken_) {
    post(*sender, frame);  // before the credit: the next frame finds its buffer
    stream_.send(Tensor::zeros({1}, DType::i64), sender->world_rank, kCredit, "credit to the teacher");
  }
  taken_.clear();
}

}  // namespace wuneng

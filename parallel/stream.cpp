#include "parallel/stream.h"

#include <xxhash.h>

#include <cstring>
#include <set>

namespace wuneng {
namespace {

constexpr int kHeader = 1, kCredit = 2, kValues = 3;  // message tags of the stream's communicator
constexpr uint64_t kMagic = 0x324d5453'474e4e57;      // "WNNGSTM2"

struct Header {
  uint64_t magic = kMagic, name_hash;
  int64_t pass, row_begin, row_end, column_begin, column_end, bytes;
  int32_t signal, micro_batch, student_dp, dtype;
};
static_assert(sizeof(Header) == 80);

uint64_t hash_of(const std::string& name) { return XXH3_64bits(name.data(), name.size()); }

Header header_of(const StreamItem& item, const Transfer& t, const TeacherSignal& signal) {
  return {.name_hash = hash_of(signal.name),
          .pass = item.pass,
          .row_begin = t.rows.begin,
          .row_end = t.rows.end,
          .column_begin = t.columns.begin,
          .column_end = t.columns.end,
          .bytes = t.rows.size() * sent_columns(signal.dtype, t.columns.size()) * size_of(signal.dtype),
          .signal = t.signal,
          .micro_batch = item.micro_batch,
          .student_dp = item.student_dp,
          .dtype = static_cast<int32_t>(signal.dtype)};
}

std::string describe(const Header& h, const std::vector<TeacherSignal>& signals) {
  if (h.magic != kMagic) return "no header of this stream";
  std::string name = fmt::format("of an unknown name, hash {:016x}", h.name_hash);
  for (const TeacherSignal& s : signals)
    if (hash_of(s.name) == h.name_hash) name = "'" + s.name + "'";
  const bool known = 0 <= h.dtype && h.dtype <= static_cast<int32_t>(DType::i8);
  return fmt::format(
      "signal {} {} pass {} micro-batch {} replica {} rows {}..{} columns {}..{} of {} ({} bytes)", h.signal,
      name, h.pass, h.micro_batch, h.student_dp, h.row_begin, h.row_end, h.column_begin, h.column_end,
      known ? to_string(static_cast<DType>(h.dtype)) : "no type", h.bytes);
}

Tensor header_buffer() { return Tensor::empty({sizeof(Header)}, DType::u8); }

// Of all ranks, where the signals' layouts are the mesh's.
std::vector<Transfer> checked_transfers(const Mesh& mesh, const StreamOptions& o) {
  require(o.credits > 0, "teacher stream: expected positive credits, found {}", o.credits);
  for (const TeacherSignal& signal : o.signals)
    for (const Role role : {Role::teacher, Role::student}) {
      const SignalLayout& found = role == Role::teacher ? signal.teacher : signal.student;
      const Layout& layout = mesh.layout_of(role);
      const char* const side = role == Role::teacher ? "teacher" : "student";
      require(0 <= found.stage && found.stage < layout.pp,
              "teacher signal '{}': expected a {} stage of 0..{}, found {}", signal.name, side, layout.pp - 1,
              found.stage);
      require(static_cast<int>(found.columns.size()) == layout.tp,
              "teacher signal '{}': expected the columns of {} {} tp ranks, found {}", signal.name, layout.tp,
              side, found.columns.size());
    }
  return stream_transfers(o.signals, o.rows);
}

}  // namespace

StreamShape stream_shape(const Mesh& mesh, int micro_batches) {
  return {.student_dp = mesh.student.dp,
          .teacher_dp = mesh.layout_of(Role::teacher).dp,
          .micro_batches = micro_batches};
}

std::vector<Comm::Channel> stream_channels(const Mesh& mesh, const StreamOptions& options) {
  const StreamShape shape = stream_shape(mesh, options.micro_batches);
  std::set<std::pair<int, int>> pairs;
  for (const Transfer& t : checked_transfers(mesh, options))
    for (int m = 0; m < shape.teacher_dp;
         ++m)  // serving_replica repeats itself after teacher_dp micro-batches
      for (int to = 0; to < shape.student_dp; ++to) {
        const TeacherSignal& signal = options.signals[t.signal];
        const int from = static_cast<int>((int64_t{m} * shape.student_dp + to) % shape.teacher_dp);
        pairs.emplace(mesh.world_rank(Role::teacher, from, signal.teacher.stage, t.teacher_tp),
                      mesh.world_rank(Role::student, to, signal.student.stage, t.student_tp));
      }
  std::vector<Comm::Channel> out;
  for (const auto& [from, to] : pairs) out.push_back({from, to});
  return out;
}

void connect_stream(const Comm& stream, const Mesh& mesh, const StreamOptions& options) {
  stream.connect_messages(options.device, stream_channels(mesh, options), 1, true);
}

TeacherSender::TeacherSender(const Comm& stream, const Mesh& mesh, const StreamOptions& options)
    : stream_(stream), mesh_(mesh), options_(options) {
  for (size_t i = 0; i < options.signals.size(); ++i)
    if (options.signals[i].teacher.stage == mesh.pp_rank) signals_.push_back(static_cast<int>(i));
  for (const Transfer& t : checked_transfers(mesh, options))
    if (options.signals[t.signal].teacher.stage == mesh.pp_rank && t.teacher_tp == mesh.tp_rank)
      transfers_.push_back(t);
}

int TeacherSender::next_signal(const std::string& name, const StreamItem& item) {
  if (sent_ == 0) item_ = item;
  const auto known = [&](int i) { return options_.signals[i].name == name; };
  require(std::any_of(signals_.begin(), signals_.end(), known),
          "teacher signal '{}': teacher stage {} has no such signal to send", name, mesh_.pp_rank);
  const int next = signals_[sent_];
  require(
      known(next) && item == item_,
      "teacher stage {}: expected signal '{}' of pass {} micro-batch {} replica {} to be sent next, found "
      "'{}' of pass {} micro-batch {} replica {}",
      mesh_.pp_rank, options_.signals[next].name, item_.pass, item_.micro_batch, item_.student_dp, name,
      item.pass, item.micro_batch, item.student_dp);
  sent_ = (sent_ + 1) % signals_.size();
  return next;
}

void TeacherSender::meet() const {
  if (stream_.sends_wait_for_receivers()) mesh_.tp.barrier("tensor-parallel ranks before a micro-batch");
}

void TeacherSender::take_credit(int rank, Receiver& receiver) {
  const Tensor credit = Tensor::empty({1}, DType::i64);
  stream_.recv(credit, rank, kCredit, "credit from the student");
  --receiver.groups;
}

void TeacherSender::begin_group(int rank, Receiver& receiver, const StreamItem& item, int credits) {
  if (receiver.item == item) return;
  while (receiver.groups >= credits) take_credit(rank, receiver);
  while (!receiver.sends.empty() && receiver.sends.front().done()) receiver.sends.pop_front();
  receiver.item = item;
  ++receiver.groups;
}

void TeacherSender::send(const std::string& name, const StreamItem& item, const Write& write) {
  const int index = next_signal(name, item);
  const TeacherSignal& signal = options_.signals[index];
  const int stage = signal.student.stage, credits = stream_credits(options_.signals, options_.credits, stage);
  std::vector<SignalPart> written;  // a part that several ranks want is written once
  for (const Transfer& t : transfers_) {
    if (t.signal != index) continue;
    const int to = mesh_.world_rank(Role::student, item.student_dp, stage, t.student_tp);
    Receiver& receiver = receivers_[to];
    begin_group(to, receiver, item, credits);
    auto part = std::find_if(written.begin(), written.end(),
                             [&](const SignalPart& p) { return p.rows == t.rows && p.columns == t.columns; });
    if (part == written.end()) {
      part = written.insert(part, SignalPart::empty(signal, t.rows, t.columns, options_.device));
      write(*part);
    }
    const Header header = header_of(item, t, signal);
    const Tensor buffer = header_buffer();
    std::memcpy(buffer.raw(), &header, sizeof header);
    receiver.sends.push_back(stream_.isend(buffer, to, kHeader, "header of a teacher signal"));
    receiver.sends.push_back(stream_.isend(part->values, to, kValues, "teacher signal"));
  }
}

void TeacherSender::flush() {
  require(sent_ == 0,
          "teacher stage {}: expected all its {} signals of pass {} micro-batch {}, found {} sent",
          mesh_.pp_rank, signals_.size(), item_.pass, item_.micro_batch, sent_);
  for (auto& [rank, receiver] : receivers_) {
    for (Request& r : receiver.sends) r.wait();
    receiver.sends.clear();
    while (receiver.groups > 0) take_credit(rank, receiver);
  }
}

StreamedTeacher::StreamedTeacher(const Comm& stream, const Mesh& mesh, const StreamOptions& options)
    : stream_(stream), mesh_(mesh), options_(options) {
  const StreamShape shape = stream_shape(mesh, options.micro_batches);
  std::map<std::pair<int, int>, std::vector<Transfer>> from;  // by the teacher's stage and tp rank
  for (const Transfer& t : checked_transfers(mesh, options))
    if (options.signals[t.signal].student.stage == mesh.pp_rank && t.student_tp == mesh.tp_rank)
      from[{options.signals[t.signal].teacher.stage, t.teacher_tp}].push_back(t);
  for (int replica = 0; replica < shape.teacher_dp; ++replica)
    for (const auto& [place, transfers] : from)
      senders_.push_back({mesh.world_rank(Role::teacher, replica, place.first, place.second),
                          replica,
                          transfers,
                          groups_of(replica, options.first_pass, options.end_pass),
                          {}});
  for (Sender& sender : senders_)
    for (int i = stream_credits(options.signals, options.credits, mesh.pp_rank); i > 0; --i)
      post(sender, empty_group(sender));
}

int64_t StreamedTeacher::groups_of(int replica, int64_t begin, int64_t end) const {
  const StreamShape shape = stream_shape(mesh_, options_.micro_batches);
  int64_t out = 0;
  for (int64_t pass = begin; pass < end; ++pass)
    for (int m = 0; m < shape.micro_batches; ++m)
      out += serving_replica(shape, {pass, m, mesh_.dp_rank}) == replica;
  return out;
}

StreamedTeacher::Group StreamedTeacher::empty_group(const Sender& sender) const {
  Group out;
  for (const Transfer& t : sender.transfers) {
    const SignalPart part = SignalPart::empty(options_.signals[t.signal], t.rows, t.columns, options_.device);
    out.push_back({&t, header_buffer(), part.values, {}, {}});
  }
  return out;
}

void StreamedTeacher::post(Sender& sender, Group group) {
  if (sender.groups == 0) return;
  --sender.groups;
  for (Frame& f : group) {
    f.header_received = stream_.irecv(f.header, sender.world_rank, kHeader, "header of a teacher signal");
    f.values_received = stream_.irecv(f.values, sender.world_rank, kValues, "teacher signal");
  }
  sender.posted.push_back(std::move(group));
}

void StreamedTeacher::receive(Frame& frame, const Sender& sender, const StreamItem& item) {
  frame.header_received.wait();
  const Header expected = header_of(item, *frame.transfer, options_.signals[frame.transfer->signal]);
  Header found;
  std::memcpy(&found, frame.header.raw(), sizeof found);
  if (found.bytes == expected.bytes) frame.values_received.wait();
  require(std::memcmp(&found, &expected, sizeof found) == 0,
          "teacher stream, frame from world rank {}: expected {}, found {}", sender.world_rank,
          describe(expected, options_.signals), describe(found, options_.signals));
}

const SignalParts& StreamedTeacher::take(int64_t pass, int micro_batch) {
  WUNENG_ASSERT(taken_.empty());
  const StreamItem item{pass, micro_batch, mesh_.dp_rank};
  parts_.clear();
  for (const TeacherSignal& signal : options_.signals)
    if (signal.student.stage == mesh_.pp_rank) parts_.expect(signal.name);
  for (Sender& sender : senders_) {
    if (serving_replica(stream_shape(mesh_, options_.micro_batches), item) != sender.replica) continue;
    require(!sender.posted.empty(),
            "teacher stream: pass {} micro-batch {} was not planned (passes {} to {})", pass, micro_batch,
            options_.first_pass, options_.end_pass);
    Group group = std::move(sender.posted.front());
    sender.posted.pop_front();
    for (Frame& f : group) {
      receive(f, sender, item);
      parts_.add(options_.signals[f.transfer->signal].name,
                 {f.transfer->rows, f.transfer->columns, f.values});
    }
    taken_.emplace_back(&sender, std::move(group));
  }
  for (const TeacherSignal& signal : options_.signals)
    if (signal.student.stage == mesh_.pp_rank && signal.student.gathered) gather(signal);
  // Start the copies to this device of what has already arrived.
  for (Sender& sender : senders_)
    for (Group& group : sender.posted)
      for (Frame& f : group) f.values_received.done();
  return parts_;
}

void StreamedTeacher::gather(const TeacherSignal& signal) {
  const int tp = mesh_.tp.size();
  if (tp == 1 && parts_.of(signal.name).size() == 1) return;
  const Range columns = signal.student.columns[mesh_.tp_rank];
  const auto share = [&](int rank) { return gathered_rows(options_.rows, tp, rank); };
  const int64_t most = (options_.rows + tp - 1) / tp, width = sent_columns(signal.dtype, columns.size());
  const auto fresh = [&](Shape shape) {
    return Tensor::empty(std::move(shape), signal.dtype, options_.device);
  };
  const Tensor mine = fresh({most, width}), all = fresh({tp, most, width});
  for (const SignalPart& part : parts_.of(signal.name))
    mine.rows(part.rows.begin - share(mesh_.tp_rank).begin, part.rows.end - share(mesh_.tp_rank).begin)
        .copy_from(part.values);
  mesh_.tp.all_gather(mine, all, "teacher signal");
  SignalPart whole{{0, options_.rows}, columns, fresh({options_.rows, width})};
  for (int rank = 0; rank < tp; ++rank)
    whole.values.rows(share(rank).begin, share(rank).end)
        .copy_from(all.view({tp * most, width}).rows(rank * most, rank * most + share(rank).size()));
  parts_.replace(signal.name, std::move(whole));
}

// What has been posted already must be among what the teacher still sends: it is not withdrawn.
void StreamedTeacher::stop(int64_t next, int64_t end) {
  WUNENG_ASSERT(taken_.empty());
  for (Sender& sender : senders_) {
    sender.groups = groups_of(sender.replica, next, end) - static_cast<int64_t>(sender.posted.size());
    require(sender.groups >= 0, "teacher stream: an early end before pass {} leaves {} posted groups over",
            end, -sender.groups);
  }
  for (int64_t pass = next; pass < end; ++pass)
    for (int m = 0; m < options_.micro_batches; ++m) {
      take(pass, m);
      release();
    }
}

void StreamedTeacher::release() {
  parts_.clear();
  for (auto& [sender, group] : taken_) {
    for (Frame& f : group)
      if (f.values.shared())  // somebody keeps it
        f.values = Tensor::empty(f.values.shape(), f.values.dtype(), options_.device);
    post(*sender, std::move(group));  // before the credit: the next group finds its buffers
    stream_.send(Tensor::zeros({1}, DType::i64), sender->world_rank, kCredit, "credit to the teacher");
  }
  taken_.clear();
}

}  // namespace wuneng

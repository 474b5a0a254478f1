#include "runtime/comm.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <numeric>
#include <optional>

#include "runtime/cuda/device.h"
#include "runtime/cuda/nccl.h"
#include "runtime/mpi_call.h"
#include "runtime/ring.h"
#include "runtime/watchdog.h"

namespace wuneng {
namespace mpi {

State& state() {
  static State value;
  return value;
}

void check(int code, const std::string& call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail("{}: {}", call, std::string(text, length));
}

MPI_Datatype type_of(DType type) {
  switch (type) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i32:
      return MPI_INT32_T;
    case DType::i64:
      return MPI_INT64_T;
    default:
      fail("internal check failed: no MPI type for {}", to_string(type));
  }
}

}  // namespace mpi

namespace {

constexpr int64_t kRingBytes = 1 << 20;   // above this our ring beats MPI_Allreduce
constexpr int64_t kPieceBytes = 1 << 28;  // what one collective call of MPI carries, below its int counts
constexpr int64_t kPlainBytes = 1 << 30;  // above this a message is counted in blocks, not in bytes
constexpr int64_t kBlockBytes = 1 << 20;

// A message of any length: above 1 GiB one item of a derived type, since MPI counts with int. Its elements
// are bytes either way, so what arrives is counted alike.
class LongMessage {
 public:
  LongMessage(int64_t bytes, const std::string& call) {
    if (bytes <= kPlainBytes) {
      count_ = static_cast<int>(bytes);
      return;
    }
    MPI_Datatype block;
    mpi::check(MPI_Type_contiguous(kBlockBytes, MPI_BYTE, &block), call);
    const int counts[] = {static_cast<int>(bytes / kBlockBytes), static_cast<int>(bytes % kBlockBytes)};
    const MPI_Aint at[] = {0, static_cast<MPI_Aint>(bytes / kBlockBytes * kBlockBytes)};
    const MPI_Datatype types[] = {block, MPI_BYTE};
    mpi::check(MPI_Type_create_struct(2, counts, at, types, &type_), call);
    mpi::check(MPI_Type_commit(&type_), call);
    MPI_Type_free(&block);
  }
  ~LongMessage() {  // MPI keeps the type while a message under way needs it
    if (type_ != MPI_BYTE) MPI_Type_free(&type_);
  }
  LongMessage(const LongMessage&) = delete;
  int count() const { return count_; }
  MPI_Datatype type() const { return type_; }

 private:
  int count_ = 1;
  MPI_Datatype type_ = MPI_BYTE;
};

struct Call {
  const char* operation;
  const char* what;
  const Tensor* tensor = nullptr;
  bool reduces = false;
  bool collective = true;
  bool needs_peer = false;
  int peer = -1;  // of a message; the root of a broadcast
  int tag = 0;
};

Call message(const char* operation, const char* what, const Tensor& tensor, int peer, int tag) {
  return {.operation = operation,
          .what = what,
          .tensor = &tensor,
          .collective = false,
          .needs_peer = true,
          .peer = peer,
          .tag = tag};
}

}  // namespace

struct Comm::Impl {
  MPI_Comm comm = MPI_COMM_NULL;  // null: this rank alone
  int rank = 0, size = 1;
  std::string name = "self";
  std::vector<int> world_ranks = {mpi::state().world_rank};
  std::string members = std::to_string(mpi::state().world_rank);  // "0,1,2", for messages
  std::unique_ptr<cuda::NcclGroup> nccl;                          // after connect()

  bool by_nccl(const Tensor& tensor) const { return nccl && tensor.device().kind == DeviceKind::cuda; }

  Impl() = default;
  Impl(MPI_Comm group, std::string group_name) : comm(group), name(std::move(group_name)) {
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    MPI_Group here, everywhere;  // translated without a message, so that world() is no collective call
    MPI_Comm_group(comm, &here);
    MPI_Comm_group(MPI_COMM_WORLD, &everywhere);
    std::vector<int> ranks(size);
    std::iota(ranks.begin(), ranks.end(), 0);
    world_ranks.resize(size);
    MPI_Group_translate_ranks(here, size, ranks.data(), everywhere, world_ranks.data());
    MPI_Group_free(&here);
    MPI_Group_free(&everywhere);
    members.clear();
    for (const int r : world_ranks) members += (members.empty() ? "" : ",") + std::to_string(r);
  }
  Impl(const Impl&) = delete;

  ~Impl() {
    nccl.reset();
    int finalized = 0;
    if (comm == MPI_COMM_NULL || comm == MPI_COMM_WORLD) return;
    if (MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized) MPI_Comm_free(&comm);
  }
};

// The gate that every call goes through: checks what one rank can check, names and counts the call, tells the
// watchdog that this rank waits in it, and in check mode makes sure that all ranks are in the same call.
class Comm::Gate {
 public:
  Gate(const Impl& group, const Call& call) : group_(group) {
    check(call);
    if (alone() && call.collective) return;
    static std::atomic<int64_t> calls = 0;
    const std::string mine = signature(call);
    text_ = fmt::format("{} on {} (world ranks {}), call {}", mine, group_.name, group_.members, ++calls);
    if (!call.collective) return;  // only posted; Request::wait waits
    waiting_.emplace(text_);
    if (mpi::state().check_alike) check_alike(mine);
  }

  bool alone() const { return group_.size == 1; }
  const std::string& text() const { return text_; }
  void operator()(int code) const { mpi::check(code, text_); }

  // Every rank's text, by rank.
  std::vector<std::string> gather_text(const std::string& mine) const {
    std::vector<int> lengths(group_.size), offsets(group_.size);
    const int length = static_cast<int>(mine.size());
    mpi::check(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, group_.comm), text_);
    int64_t total = 0;
    for (int r = 0; r < group_.size; total += lengths[r++]) offsets[r] = static_cast<int>(total);
    require(total <= INT32_MAX, "{}: {} bytes of text in all, expected at most {}", text_, total, INT32_MAX);
    std::string all(total, ' ');
    mpi::check(MPI_Allgatherv(mine.data(), length, MPI_CHAR, all.data(), lengths.data(), offsets.data(),
                              MPI_CHAR, group_.comm),
               text_);
    std::vector<std::string> out;
    for (int r = 0; r < group_.size; ++r) out.push_back(all.substr(offsets[r], lengths[r]));
    return out;
  }

 private:
  // "broadcast 'weights' f32[3, 4] with world rank 2": equal on all ranks of a collective call.
  std::string signature(const Call& c) const {
    std::string out = fmt::format("{} '{}'", c.operation, c.what);
    if (c.tensor) out += fmt::format(" {}{}", to_string(c.tensor->dtype()), to_string(c.tensor->shape()));
    if (c.peer >= 0 && c.peer < group_.size)
      out += fmt::format(" with world rank {}", group_.world_ranks[c.peer]);
    return out;
  }

  std::string place(const Call& c) const {
    return fmt::format("{} on {} (world ranks {})", signature(c), group_.name, group_.members);
  }

  // Names the call only where something is wrong: this runs before every call, also of a rank alone.
  void check(const Call& c) const {
    if (c.tensor) {
      const DType type = c.tensor->dtype();
      if (!c.tensor->defined()) fail("{}: the tensor is undefined", place(c));
      if (c.reduces && (type == DType::f16 || type == DType::u8))
        fail("{}: {} cannot be reduced, expected f32, bf16, f64, i32 or i64", place(c), to_string(type));
    }
    if (c.peer < (c.needs_peer ? 0 : -1) || c.peer >= group_.size)
      fail("{}: expected a rank in [0, {}), found {}", place(c), group_.size, c.peer);
    if (c.collective) return;
    if (group_.comm == MPI_COMM_NULL)
      fail("{}: this rank is alone, it has nobody to send to or receive from", place(c));
    const int tags = mpi::state().own_tag;
    if (c.tag < 0 || c.tag >= tags) fail("{}: expected a tag in [0, {}), found {}", place(c), tags, c.tag);
  }

  // The ranks compare a hash; where it differs, all gather the full texts, so that each names a rank that
  // disagrees.
  void check_alike(const std::string& mine) const {
    const uint64_t hash = std::hash<std::string>{}(mine);
    std::vector<uint64_t> hashes(group_.size);
    mpi::check(MPI_Allgather(&hash, 1, MPI_UINT64_T, hashes.data(), 1, MPI_UINT64_T, group_.comm), text_);
    if (std::all_of(hashes.begin(), hashes.end(), [&](uint64_t h) { return h == hashes[0]; })) return;
    const std::vector<std::string> all = gather_text(mine);
    for (int r = 0; r < group_.size; ++r)
      require(all[r] == mine, "{}: world rank {} is in {} meanwhile", text_, group_.world_ranks[r], all[r]);
  }

  const Impl& group_;
  std::string text_;
  std::optional<watchdog::Waiting> waiting_;
};

namespace {

// A tensor where MPI can read and write it: itself, or a copy on the host.
class Staged {
 public:
  // filled: what the tensor holds is read; else the copy on the host is only written to.
  explicit Staged(const Tensor& tensor, bool filled = true)
      : host(filled || tensor.device() == Device{} ? tensor.to(Device{})
                                                   : Tensor::empty(tensor.shape(), tensor.dtype())),
        there_(tensor) {}
  void write_back() const {
    if (there_.device() != Device{}) there_.copy_from(host);
  }
  const Tensor host;

 private:
  Tensor there_;
};

}  // namespace

struct Request::Impl {
  MPI_Request request = MPI_REQUEST_NULL;
  Staged buffer;
  std::string call;
  int64_t expected = -1;  // bytes, of a receive

  Impl(const Tensor& tensor, const std::string& text, bool sends) : buffer(tensor, sends), call(text) {}
  Impl(const Impl&) = delete;

  void finish(int code, const MPI_Status& status) const {
    int error = MPI_SUCCESS;
    MPI_Error_class(code, &error);
    if (error != MPI_ERR_TRUNCATE) mpi::check(code, call);
    if (expected < 0) return;
    MPI_Count bytes = 0;
    MPI_Get_elements_x(&status, MPI_BYTE, &bytes);
    const int64_t found = bytes;
    require(error != MPI_ERR_TRUNCATE || found > expected, "{}: expected {} bytes, received more", call,
            expected);
    require(found == expected, "{}: expected {} bytes, received {}", call, expected, found);
    buffer.write_back();
  }

  ~Impl() {
    if (request == MPI_REQUEST_NULL) return;
    if (std::uncaught_exceptions() == 0) {
      std::fprintf(stderr, "wuneng: %s: %s was dropped before it ended\n", rank_name().c_str(), call.c_str());
      Runtime::abort(70);
    }
    new Tensor(buffer.host);  // MPI may still write there; the error on its way ends the run
  }
};

bool Request::done() {
  if (!impl_) return true;
  int flag = 0;
  MPI_Status status;
  const int code = MPI_Test(&impl_->request, &flag, &status);
  if (code == MPI_SUCCESS && !flag) return false;
  const auto ended = std::move(impl_);
  ended->finish(code, status);
  return true;
}

void Request::wait() {
  if (!impl_) return;
  const auto ended = std::move(impl_);
  watchdog::Waiting waiting(ended->call);
  MPI_Status status;
  const int code = MPI_Wait(&ended->request, &status);
  ended->finish(code, status);
}

Comm::Comm() : impl_(std::make_shared<Impl>()) {}
Comm::Comm(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Comm Comm::world() {
  return mpi::state().started ? Comm(std::make_shared<Impl>(MPI_COMM_WORLD, "world")) : Comm();
}

int Comm::rank() const { return impl_->rank; }
int Comm::size() const { return impl_->size; }
const std::string& Comm::name() const { return impl_->name; }
const std::vector<int>& Comm::world_ranks() const { return impl_->world_ranks; }

Comm Comm::split(int color, int key, const std::string& name) const {
  auto self = std::make_shared<Impl>();
  self->name = name;
  if (impl_->comm == MPI_COMM_NULL) return Comm(self);
  const Gate call(*impl_, {.operation = "split", .what = "into groups"});
  MPI_Comm part = MPI_COMM_NULL;
  call(MPI_Comm_split(impl_->comm, color < 0 ? MPI_UNDEFINED : color, key, &part));
  return Comm(part == MPI_COMM_NULL ? self : std::make_shared<Impl>(part, name));
}

void Comm::connect(Device device) const {
  if (!cuda::kHasNccl || size() == 1 || device.kind == DeviceKind::cpu) return;
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  std::vector<std::string> places =
      all_gather_text(fmt::format("{} {}", host, cuda::bus_id(device.index)), "places of the GPUs");
  std::sort(places.begin(), places.end());
  if (std::adjacent_find(places.begin(), places.end()) != places.end()) return;
  cuda::NcclId id = {};
  if (rank() == 0) id = cuda::NcclGroup::make_id();
  const Tensor bytes = Tensor::empty({static_cast<int64_t>(id.size())}, DType::u8);
  std::copy(id.begin(), id.end(), static_cast<char*>(bytes.raw()));
  broadcast(bytes, 0, "name of the NCCL communicator");
  std::copy_n(static_cast<const char*>(bytes.raw()), id.size(), id.begin());
  const Gate call(*impl_, {.operation = "connect", .what = "GPUs by NCCL"});
  impl_->nccl = std::make_unique<cuda::NcclGroup>(id, rank(), size(), device);
}

void Comm::all_reduce(const Tensor& tensor, Reduce op, const char* what) const {
  constexpr const char* names[] = {"all_reduce sum", "all_reduce max", "all_reduce min"};
  const MPI_Op ops[] = {MPI_SUM, mpi::state().max, mpi::state().min};
  const int index = static_cast<int>(op);
  const Gate call(*impl_, {.operation = names[index], .what = what, .tensor = &tensor, .reduces = true});
  if (call.alone()) return;
  if (impl_->by_nccl(tensor)) return impl_->nccl->all_reduce(tensor, op, call.text());
  const Staged staged(tensor);
  const Tensor& given = staged.host;
  const Tensor summed = given.dtype() == DType::bf16 ? given.to(DType::f32) : given;
  if (summed.bytes() > kRingBytes)
    mpi::ring_all_reduce(impl_->comm, summed, op, call.text());
  else
    call(MPI_Allreduce(MPI_IN_PLACE, summed.raw(), static_cast<int>(summed.numel()),
                       mpi::type_of(summed.dtype()), ops[index], impl_->comm));
  if (given.dtype() == DType::bf16) given.copy_from(summed);
  staged.write_back();
}

double Comm::all_reduce(double value, Reduce op, const char* what) const {
  if (impl_->size == 1) return value;
  const Tensor t = Tensor::from<double>({value}, {1});
  all_reduce(t, op, what);
  return t.data<double>()[0];
}

void Comm::broadcast(const Tensor& tensor, int root, const char* what) const {
  const Gate call(
      *impl_, {.operation = "broadcast", .what = what, .tensor = &tensor, .needs_peer = true, .peer = root});
  if (call.alone()) return;
  if (impl_->by_nccl(tensor)) return impl_->nccl->broadcast(tensor, root, call.text());
  const Staged staged(tensor, rank() == root);
  for (int64_t at = 0; at < tensor.bytes(); at += kPieceBytes)
    call(MPI_Bcast(static_cast<char*>(staged.host.raw()) + at,
                   static_cast<int>(std::min(kPieceBytes, tensor.bytes() - at)), MPI_BYTE, root,
                   impl_->comm));
  staged.write_back();
}

void Comm::all_gather(const Tensor& mine, const Tensor& all, const char* what) const {
  const Gate call(*impl_, {.operation = "all_gather", .what = what, .tensor = &mine});
  require(all.defined() && all.dtype() == mine.dtype() && all.numel() == mine.numel() * impl_->size,
          "all_gather '{}' on {}: {} ranks of {}{} do not fill {}{}", what, impl_->name, impl_->size,
          to_string(mine.dtype()), to_string(mine.shape()), to_string(all.dtype()), to_string(all.shape()));
  if (call.alone()) return all.view(mine.shape()).copy_from(mine);
  if (impl_->by_nccl(mine)) return impl_->nccl->all_gather(mine, all, call.text());
  const Staged from(mine), to(all, false);
  for (int64_t at = 0; at < mine.bytes(); at += kPieceBytes) {
    const int bytes = static_cast<int>(std::min(kPieceBytes, mine.bytes() - at));
    MPI_Datatype piece, spaced;  // this piece of one rank's part, the next rank's a whole part further on
    call(MPI_Type_contiguous(bytes, MPI_BYTE, &piece));
    call(MPI_Type_create_resized(piece, 0, mine.bytes(), &spaced));
    call(MPI_Type_commit(&spaced));
    call(MPI_Allgather(static_cast<char*>(from.host.raw()) + at, bytes, MPI_BYTE,
                       static_cast<char*>(to.host.raw()) + at, 1, spaced, impl_->comm));
    MPI_Type_free(&spaced);
    MPI_Type_free(&piece);
  }
  to.write_back();
}

void Comm::barrier(const char* what) const {
  const Gate call(*impl_, {.operation = "barrier", .what = what});
  if (!call.alone()) call(MPI_Barrier(impl_->comm));
}

std::vector<std::string> Comm::all_gather_text(const std::string& mine, const char* what) const {
  const Gate call(*impl_, {.operation = "all_gather_text", .what = what});
  return call.alone() ? std::vector{mine} : call.gather_text(mine);
}

Request Comm::isend(const Tensor& tensor, int peer, int tag, const char* what) const {
  const Gate call(*impl_, message("send", what, tensor, peer, tag));
  Request out;
  out.impl_ = std::make_shared<Request::Impl>(tensor, call.text(), true);
  MPI_Request* request = &out.impl_->request;
  const LongMessage body(tensor.bytes(), call.text());
  call(MPI_Isend(out.impl_->buffer.host.raw(), body.count(), body.type(), peer, tag, impl_->comm, request));
  return out;
}

Request Comm::irecv(const Tensor& tensor, int peer, int tag, const char* what) const {
  const Gate call(*impl_, message("receive", what, tensor, peer, tag));
  Request out;
  out.impl_ = std::make_shared<Request::Impl>(tensor, call.text(), false);
  out.impl_->expected = tensor.bytes();
  MPI_Request* request = &out.impl_->request;
  const LongMessage body(tensor.bytes(), call.text());
  call(MPI_Irecv(out.impl_->buffer.host.raw(), body.count(), body.type(), peer, tag, impl_->comm, request));
  return out;
}

void Comm::send(const Tensor& tensor, int peer, int tag, const char* what) const {
  isend(tensor, peer, tag, what).wait();
}
void Comm::recv(const Tensor& tensor, int peer, int tag, const char* what) const {
  irecv(tensor, peer, tag, what).wait();
}

}  // namespace wuneng

#include "runtime/comm.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "runtime/comm_impl.h"
#include "runtime/cuda/device.h"
#include "runtime/host.h"
#include "runtime/request.h"
#include "runtime/ring_all_reduce.h"
#include "runtime/staged.h"

namespace wuneng {
namespace {

constexpr int64_t kRingBytes = 1 << 20;   // above this ring_all_reduce is faster than MPI_Allreduce
constexpr int64_t kPieceBytes = 1 << 28;  // of one MPI collective call, whose counts are int

// Identifies a GPU: equal for ranks that share it.
std::string gpu_location(Device device) {
  return fmt::format("{} {}", host_name(), cuda::bus_id(device.index));
}

Tensor to_tensor(const cuda::NcclId& id) {
  const Tensor bytes = Tensor::empty({static_cast<int64_t>(id.size())}, DType::u8);
  std::copy(id.begin(), id.end(), static_cast<char*>(bytes.raw()));
  return bytes;
}

cuda::NcclId to_id(const Tensor& bytes) {
  cuda::NcclId id;
  std::copy_n(static_cast<const char*>(bytes.raw()), id.size(), id.begin());
  return id;
}

// Makes the compute stream wait until a collective on this tensor has ended.
void block_compute_stream(const Tensor& tensor, const cuda::Event& ended) {
  ended.block(compute_stream(tensor.device()).handle);
}

class GpuCollective : public Request::Impl {
 public:
  GpuCollective(const Tensor& written, const std::string& call, const Comm& group, cuda::Event ended,
                const Tensor& read)
      : Impl(written, call, group.world_ranks()), ended_(std::move(ended)) {
    buffer_ = read;
    pending_ = true;
  }

 private:
  bool finish(bool wait) override {
    if (wait) block_compute_stream(tensor_, ended_);
    return wait || ended_.completed();
  }
  cuda::Event ended_;
};

// Runs when it is waited for.
class HostCollective : public Request::Impl {
 public:
  HostCollective(const Tensor& written, const std::string& call, const Comm& group, std::function<void()> run)
      : Impl(written, call, group.world_ranks()), run_(std::move(run)) {
    pending_ = true;
  }

 private:
  bool finish(bool wait) override {
    if (!wait) return false;
    pending_ = false;  // even if it throws
    run_();
    return true;
  }
  std::function<void()> run_;
};

constexpr const char* name_of(Reduce op) {
  constexpr const char* names[] = {"all_reduce sum", "all_reduce max", "all_reduce min"};
  return names[static_cast<int>(op)];
}

}  // namespace

Comm::Comm() : impl_(std::make_shared<Impl>()) {}
Comm::Comm(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Comm Comm::world() {
  return mpi::state().started ? Comm(std::make_shared<Impl>(MPI_COMM_WORLD, "world")) : Comm();
}

Comm Comm::dry(int rank, int size, const std::string& name) {
  auto impl = std::make_shared<Impl>();
  impl->rank = rank, impl->size = size, impl->dry = size > 1, impl->name = name;
  impl->world_ranks.assign(size, mpi::state().world_rank);
  return Comm(impl);
}

int Comm::rank() const { return impl_->rank; }
int Comm::size() const { return impl_->size; }
const std::string& Comm::name() const { return impl_->name; }
const std::vector<int>& Comm::world_ranks() const { return impl_->world_ranks; }

Comm Comm::split(int color, int key, const std::string& name) const {
  auto self = std::make_shared<Impl>();
  self->name = name;
  if (impl_->dry) return dry(key, size(), name);
  if (impl_->comm == MPI_COMM_NULL) return Comm(self);
  const CallGuard call(*impl_, {.operation = "split", .what = "into groups"});
  MPI_Comm part = MPI_COMM_NULL;
  call(MPI_Comm_split(impl_->comm, color < 0 ? MPI_UNDEFINED : color, key, &part));
  return Comm(part == MPI_COMM_NULL ? self : std::make_shared<Impl>(part, name));
}

void reserve_gpu_memory(const Comm& world, Device device, double share) {
  if (!cuda::kHasNccl || world.size() == 1 || device.kind == DeviceKind::cpu) return;
  const std::string mine = gpu_location(device);
  const std::vector<std::string> all = world.all_gather_text(mine, "GPU locations");
  const auto sharing = std::count(all.begin(), all.end(), mine);
  if (sharing == world.size()) return;
  const auto before = std::count(all.begin(), all.begin() + world.rank(), mine);
  int64_t most = 0;
  for (const std::string& one : all) most = std::max<int64_t>(most, std::count(all.begin(), all.end(), one));
  for (int64_t turn = 0; turn < most; ++turn) {  // a rank's share is of what those before it have left
    if (turn == before) cuda::reserve(device.index, share / (double(sharing) - share * double(before)));
    world.barrier("reserving GPU memory");
  }
}

void Comm::connect(Device device, bool overlap) const {
  if (!cuda::kHasNccl || size() == 1 || device.kind == DeviceKind::cpu) return;
  std::vector<std::string> locations = all_gather_text(gpu_location(device), "GPU locations");
  std::sort(locations.begin(), locations.end());
  if (std::adjacent_find(locations.begin(), locations.end()) != locations.end()) return;
  cuda::NcclId id = {};
  if (rank() == 0) id = cuda::make_nccl_id();
  const Tensor bytes = to_tensor(id);
  broadcast(bytes, 0, "NCCL unique id");
  const CallGuard call(*impl_, {.operation = "connect", .what = "GPUs by NCCL"});
  impl_->nccl = std::make_unique<cuda::NcclGroup>(to_id(bytes), rank(), size(), device, overlap);
}

// One channel after the other, in the same order on all ranks. A rank waits only for the peer of its own
// channels, so the first channel that is not connected yet has both its ranks waiting for it: no deadlock.
void Comm::connect_messages(Device device, const std::vector<Channel>& channels, int blocks,
                            bool when_ready) const {
  if (!cuda::kHasNccl || size() == 1 || device.kind == DeviceKind::cpu) return;
  const std::vector<std::string> locations = all_gather_text(gpu_location(device), "GPU locations");
  // Where ranks share a GPU they may block each other's hosts in collective calls.
  const std::set<std::string> gpus(locations.begin(), locations.end());
  const bool waits = when_ready && gpus.size() == locations.size();
  if (waits && impl_->ready == MPI_COMM_NULL)
    mpi::check(MPI_Comm_dup(impl_->comm, &impl_->ready), "connecting messages on " + name());
  for (const Channel& channel : channels) {
    const bool sends = channel.from == rank();
    if ((!sends && channel.to != rank()) || locations.at(channel.from) == locations.at(channel.to)) continue;
    const int peer = sends ? channel.to : channel.from;
    const Tensor bytes = to_tensor(sends ? cuda::make_nccl_id() : cuda::NcclId{});
    const char* const what = "NCCL unique id";
    sends ? send(bytes, peer, 0, what) : recv(bytes, peer, 0, what);
    const CallGuard call(*impl_,
                         Call::message(sends ? "connect to" : "connect from", "messages", bytes, peer, 0));
    const std::vector<int> needed = {world_ranks()[peer]};
    const watchdog::Waiting waiting(call.text(), needed);
    impl_->channels.push_back(
        std::make_shared<cuda::NcclChannel>(to_id(bytes), sends, device, blocks, call.text()));
    (sends ? impl_->ways_to : impl_->ways_from)[peer] = std::make_shared<MessageWay>(
        MessageWay{impl_->channels.back(), waits ? impl_->ready : MPI_COMM_NULL});
  }
}

bool Comm::sends_wait_for_receivers() const { return impl_->ready != MPI_COMM_NULL; }

Request Comm::under_way(const Tensor& written, const std::string& call, const cuda::Event& ended,
                        const Tensor& read) const {
  Request out;
  out.impl_ = std::make_shared<GpuCollective>(written, call, *this, ended, read);
  return out;
}

Request Comm::later(const Tensor& written, const std::string& call, std::function<void()> run) const {
  Request out;
  out.impl_ = std::make_shared<HostCollective>(written, call, *this, std::move(run));
  return out;
}

void Comm::reduce_on_host(const Tensor& tensor, Reduce op, bool scatters, const CallGuard& call) const {
  const MPI_Op ops[] = {MPI_SUM, mpi::state().max, mpi::state().min};
  const Staged staged(tensor, true, call.text());
  const Tensor& given = staged.host();
  const Tensor summed = given.dtype() == DType::bf16 ? given.to(DType::f32) : given;
  if (summed.bytes() > kRingBytes)
    (scatters ? mpi::ring_reduce_scatter : mpi::ring_all_reduce)(impl_->comm, summed, op, call.text());
  else
    call(MPI_Allreduce(MPI_IN_PLACE, summed.raw(), static_cast<int>(summed.numel()),
                       mpi::type_of(summed.dtype()), ops[static_cast<int>(op)], impl_->comm));
  if (given.dtype() == DType::bf16) given.copy_from(summed);
  staged.write_back();
}

void Comm::all_reduce(const Tensor& tensor, Reduce op, const char* what) const {
  const CallGuard call(*impl_, {.operation = name_of(op), .what = what, .tensor = &tensor, .reduces = true});
  if (call.alone()) return;
  if (impl_->by_nccl(tensor))
    return block_compute_stream(tensor, impl_->nccl->all_reduce(tensor, op, call.text()));
  reduce_on_host(tensor, op, false, call);
}

Request Comm::iall_reduce(const Tensor& tensor, Reduce op, const char* what) const {
  const Call reduces{.operation = name_of(op), .what = what, .tensor = &tensor, .reduces = true};
  const CallGuard call(*impl_, reduces.begun());
  if (call.alone()) return {};
  if (impl_->by_nccl(tensor))
    return under_way(tensor, call.text(), impl_->nccl->all_reduce(tensor, op, call.text()));
  return later(tensor, call.text(),
               [=, *this, name = std::string(what)] { all_reduce(tensor, op, name.c_str()); });
}

Comm::Call Comm::of_reduce_scatter(const Tensor& tensor, const char* what) const {
  require(tensor.numel() % size() == 0, "reduce_scatter '{}' on {}: {} elements are not {} equal parts", what,
          name(), tensor.numel(), size());
  return {.operation = "reduce_scatter sum", .what = what, .tensor = &tensor, .reduces = true};
}

void Comm::reduce_scatter(const Tensor& tensor, const char* what) const {
  const CallGuard call(*impl_, of_reduce_scatter(tensor, what));
  if (call.alone()) return;
  if (impl_->by_nccl(tensor))
    return block_compute_stream(tensor, impl_->nccl->reduce_scatter(tensor, call.text()));
  reduce_on_host(tensor, Reduce::sum, true, call);
}

Request Comm::ireduce_scatter(const Tensor& tensor, const char* what) const {
  const CallGuard call(*impl_, of_reduce_scatter(tensor, what).begun());
  if (call.alone()) return {};
  if (impl_->by_nccl(tensor))
    return under_way(tensor, call.text(), impl_->nccl->reduce_scatter(tensor, call.text()));
  return later(tensor, call.text(),
               [=, *this, name = std::string(what)] { reduce_scatter(tensor, name.c_str()); });
}

double Comm::all_reduce(double value, Reduce op, const char* what) const {
  if (impl_->size == 1 || impl_->dry) return value;
  const Tensor t = Tensor::from<double>({value}, {1});
  all_reduce(t, op, what);
  return t.data<double>()[0];
}

void Comm::broadcast(const Tensor& tensor, int root, const char* what) const {
  const CallGuard call(
      *impl_, {.operation = "broadcast", .what = what, .tensor = &tensor, .needs_peer = true, .peer = root});
  if (call.alone()) return;
  if (impl_->by_nccl(tensor))
    return block_compute_stream(tensor, impl_->nccl->broadcast(tensor, root, call.text()));
  const Staged staged(tensor, rank() == root, call.text());
  for (int64_t at = 0; at < tensor.bytes(); at += kPieceBytes)
    call(MPI_Bcast(static_cast<char*>(staged.host().raw()) + at,
                   static_cast<int>(std::min(kPieceBytes, tensor.bytes() - at)), MPI_BYTE, root,
                   impl_->comm));
  staged.write_back();
}

Comm::Call Comm::of_all_gather(const Tensor& mine, const Tensor& all, const char* what) const {
  require(all.defined() && all.dtype() == mine.dtype() && all.numel() == mine.numel() * impl_->size,
          "all_gather '{}' on {}: {} ranks of {}{} do not make {}{}", what, impl_->name, impl_->size,
          to_string(mine.dtype()), to_string(mine.shape()), to_string(all.dtype()), to_string(all.shape()));
  return {.operation = "all_gather", .what = what, .tensor = &mine};
}

void Comm::all_gather(const Tensor& mine, const Tensor& all, const char* what) const {
  const CallGuard call(*impl_, of_all_gather(mine, all, what));
  const bool in_place = mine.raw() == static_cast<char*>(all.raw()) + rank() * mine.bytes();
  if (impl_->dry) return;
  if (call.alone()) return in_place ? void() : all.view(mine.shape()).copy_from(mine);
  if (impl_->by_nccl(mine)) return block_compute_stream(all, impl_->nccl->all_gather(mine, all, call.text()));
  const Staged from(mine, true, call.text()), to(all, false, call.text());
  // Only on the host are they one memory: copies of GPU tensors are not.
  const bool from_its_place = in_place && mine.device() == Device{};
  for (int64_t at = 0; at < mine.bytes(); at += kPieceBytes) {
    const int bytes = static_cast<int>(std::min(kPieceBytes, mine.bytes() - at));
    MPI_Datatype piece, spaced;  // this piece of one rank's tensor; stride: a whole tensor
    call(MPI_Type_contiguous(bytes, MPI_BYTE, &piece));
    call(MPI_Type_create_resized(piece, 0, mine.bytes(), &spaced));
    call(MPI_Type_commit(&spaced));
    call(MPI_Allgather(from_its_place ? MPI_IN_PLACE : static_cast<char*>(from.host().raw()) + at, bytes,
                       MPI_BYTE, static_cast<char*>(to.host().raw()) + at, 1, spaced, impl_->comm));
    MPI_Type_free(&spaced);
    MPI_Type_free(&piece);
  }
  to.write_back();
}

Request Comm::iall_gather(const Tensor& mine, const Tensor& all, const char* what) const {
  const CallGuard call(*impl_, of_all_gather(mine, all, what).begun());
  if (impl_->dry) return {};
  if (call.alone() || !impl_->by_nccl(mine))
    return later(all, call.text(),
                 [=, *this, name = std::string(what)] { all_gather(mine, all, name.c_str()); });
  return under_way(all, call.text(), impl_->nccl->all_gather(mine, all, call.text()), mine);
}

void Comm::barrier(const char* what) const {
  const CallGuard call(*impl_, {.operation = "barrier", .what = what});
  if (!call.alone()) call.barrier();
}

std::vector<std::string> Comm::all_gather_text(const std::string& mine, const char* what) const {
  const CallGuard call(*impl_, {.operation = "all_gather_text", .what = what});
  return call.alone() ? std::vector{mine} : call.gather_text(mine);
}

}  // namespace wuneng

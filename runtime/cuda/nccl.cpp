#include "runtime/cuda/nccl.h"

#include <nccl.h>

#include <cstring>
#include <exception>

#include "runtime/cuda/check.h"
#include "runtime/cuda/device.h"
#include "runtime/cuda/waiting.h"
#include "runtime/watchdog.h"

namespace wuneng::cuda {
namespace {

void check(ncclResult_t code, const std::string& call) {
  if (code != ncclSuccess) fail("{}: NCCL: {}", call, ncclGetErrorString(code));
}

ncclDataType_t type_of(DType type) {
  switch (type) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::bf16:
      return ncclBfloat16;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    default:
      fail("internal check failed: no NCCL type for {}", to_string(type));
  }
}

// A NCCL communicator whose asynchronous errors are checked while the host waits for the GPU.
class Communicator {
 public:
  // Returns when all `size` ranks have called it. most_blocks: limit for each of its kernels.
  Communicator(const NcclId& id, int rank, int size, Device device, int most_blocks, const std::string& call)
      : call_(call) {
    make_current(device.index);  // NCCL takes the thread's current GPU
    ncclUniqueId unique;
    std::memcpy(&unique, id.data(), sizeof unique);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.maxCTAs = most_blocks;
    config.cgaClusterSize = 0;  // a cluster of blocks would need as many free multiprocessors in one GPC
    check(ncclCommInitRankConfig(&comm_, size, unique, rank, &config), call);
    health_check_ = add_health_check([comm = comm_] {
      ncclResult_t found = ncclSuccess;
      check(ncclCommGetAsyncError(comm, &found), "ncclCommGetAsyncError");
      return found == ncclSuccess || found == ncclInProgress ? std::string() : ncclGetErrorString(found);
    });
  }
  ~Communicator() {
    remove_health_check(health_check_);
    const watchdog::Waiting waiting("destroying the NCCL communicator of: " +
                                    call_);  // waits for the other ranks
    std::uncaught_exceptions() > 0 ? ncclCommAbort(comm_) : ncclCommDestroy(comm_);
  }
  Communicator(const Communicator&) = delete;
  ncclComm_t get() const { return comm_; }

 private:
  std::string call_;
  ncclComm_t comm_ = nullptr;
  int health_check_ = 0;
};

cudaStream_t compute_stream_of(Device device) {
  return static_cast<cudaStream_t>(compute_stream(device).handle);
}

// Its kernels are scheduled before those of the compute stream.
cudaStream_t make_high_priority_stream() {
  int least = 0, greatest = 0;
  cuda::check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  cudaStream_t stream = nullptr;
  cuda::check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
              "cudaStreamCreateWithPriority");
  return stream;
}

// Thread blocks per kernel, one per multiprocessor: enough for a collective's bandwidth, while most of the
// GPU is left to computation.
constexpr int kCollectiveBlocks = 16;

}  // namespace

NcclId make_nccl_id() {
  ncclUniqueId id;
  check(ncclGetUniqueId(&id), "ncclGetUniqueId");
  NcclId out;
  static_assert(sizeof id == sizeof out);
  std::memcpy(out.data(), &id, sizeof id);
  return out;
}

// `compute` is first in both: what this process needs of the GPU is allocated before a communicator exists.
struct NcclGroup::Impl {
  cudaStream_t compute;
  Communicator comm;
  int rank, size;
  cudaStream_t stream;

  Impl(const NcclId& id, int rank, int size, Device device, bool own_stream, const std::string& call)
      : compute(compute_stream_of(device)),
        comm(id, rank, size, device, kCollectiveBlocks, call),
        rank(rank),
        size(size),
        stream(own_stream ? make_high_priority_stream() : compute) {
    if (own_stream) keep_free(device.index, kCollectiveBlocks);
  }
  ~Impl() {
    if (stream != compute) cudaStreamDestroy(stream);
  }

  template <class Start>
  Event run(const std::string& call, const Start& start) const {
    note_queued(call);
    Event::record(compute).block(stream);
    check(start(), call);
    return Event::record(stream);
  }
};

NcclGroup::NcclGroup(const NcclId& id, int rank, int size, Device device, bool own_stream)
    : impl_(std::make_unique<Impl>(id, rank, size, device, own_stream,
                                   fmt::format("joining {} GPUs as rank {}", size, rank))) {}
NcclGroup::~NcclGroup() = default;

Event NcclGroup::all_reduce(const Tensor& tensor, Reduce op, const std::string& call) const {
  constexpr ncclRedOp_t ops[] = {ncclSum, ncclMax, ncclMin};
  return impl_->run(call, [&] {
    return ncclAllReduce(tensor.raw(), tensor.raw(), tensor.numel(), type_of(tensor.dtype()),
                         ops[static_cast<int>(op)], impl_->comm.get(), impl_->stream);
  });
}

Event NcclGroup::reduce_scatter(const Tensor& tensor, const std::string& call) const {
  return impl_->run(call, [&] {
    const int64_t count = tensor.numel() / impl_->size, bytes = count * size_of(tensor.dtype());
    return ncclReduceScatter(tensor.raw(), static_cast<char*>(tensor.raw()) + impl_->rank * bytes, count,
                             type_of(tensor.dtype()), ncclSum, impl_->comm.get(), impl_->stream);
  });
}

Event NcclGroup::broadcast(const Tensor& tensor, int root, const std::string& call) const {
  return impl_->run(call, [&] {
    return ncclBroadcast(tensor.raw(), tensor.raw(), tensor.bytes(), ncclInt8, root, impl_->comm.get(),
                         impl_->stream);
  });
}

Event NcclGroup::all_gather(const Tensor& mine, const Tensor& all, const std::string& call) const {
  return impl_->run(call, [&] {
    return ncclAllGather(mine.raw(), all.raw(), mine.bytes(), ncclInt8, impl_->comm.get(), impl_->stream);
  });
}

struct NcclChannel::Impl {
  cudaStream_t compute;
  Communicator comm;
  cudaStream_t stream;
  int64_t count = 0;

  Impl(const NcclId& id, bool sends, Device device, int blocks, const std::string& call)
      : compute(compute_stream_of(device)),
        comm(id, sends ? 0 : 1, 2, device, blocks, call),
        stream(make_high_priority_stream()) {}
  ~Impl() { cudaStreamDestroy(stream); }

  void send(const Tensor& tensor, const std::string& call) const {
    note_queued(call);
    check(ncclSend(tensor.raw(), tensor.bytes(), ncclInt8, 1, comm.get(), stream), call);
  }
  void receive(const Tensor& tensor, const std::string& call) const {
    note_queued(call);
    check(ncclRecv(tensor.raw(), tensor.bytes(), ncclInt8, 0, comm.get(), stream), call);
  }
};

NcclChannel::NcclChannel(const NcclId& id, bool sends, Device device, int blocks, const std::string& call)
    : impl_(std::make_unique<Impl>(id, sends, device, blocks, call)) {
  const Tensor first = Tensor::zeros({1}, DType::u8, device);
  Event::record(impl_->compute).block(impl_->stream);
  sends ? impl_->send(first, call) : impl_->receive(first, call);
  wait_for(impl_->stream);
}
NcclChannel::~NcclChannel() = default;

int64_t NcclChannel::count() const { return impl_->count; }

Event NcclChannel::send(const Tensor& tensor, const std::string& call) {
  ++impl_->count;
  Event::record(impl_->compute).block(impl_->stream);
  impl_->send(tensor, call);
  return Event::record(impl_->stream);
}

Event NcclChannel::receive(const Tensor& tensor, const Event& ready, const std::string& call) {
  ++impl_->count;
  ready.block(impl_->stream);
  impl_->receive(tensor, call);
  return Event::record(impl_->stream);
}

}  // namespace wuneng::cuda

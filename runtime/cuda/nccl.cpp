#include "runtime/cuda/nccl.h"

#include <nccl.h>

#include <cstring>
#include <exception>

#include "runtime/cuda/check.h"
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

// A communicator, looked after while the host waits for the GPU.
class Communicator {
 public:
  // Returns when all `size` ranks have come. most_blocks: of one of its kernels.
  Communicator(const NcclId& id, int rank, int size, int most_blocks, const std::string& call) : call_(call) {
    ncclUniqueId unique;
    std::memcpy(&unique, id.data(), sizeof unique);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.maxCTAs = most_blocks;
    check(ncclCommInitRankConfig(&comm_, size, unique, rank, &config), call);
    health_check_ = add_health_check([comm = comm_] {
      ncclResult_t found = ncclSuccess;
      check(ncclCommGetAsyncError(comm, &found), "ncclCommGetAsyncError");
      return found == ncclSuccess || found == ncclInProgress ? std::string() : ncclGetErrorString(found);
    });
  }
  ~Communicator() {
    remove_health_check(health_check_);
    const watchdog::Waiting waiting("leaving what was made by: " + call_);  // the others leave as well
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

// Before the compute stream's next kernels in the queue for multiprocessors.
cudaStream_t make_urgent_stream() {
  int least = 0, greatest = 0;
  cuda::check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  cudaStream_t stream = nullptr;
  cuda::check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
              "cudaStreamCreateWithPriority");
  return stream;
}

// Of a kernel, one a multiprocessor. A collective's bandwidth wants more of them than a message's, and those
// under way together leave most of the GPU to computation.
constexpr int kCollectiveBlocks = 16, kMessageBlocks = 4;

}  // namespace

NcclId make_nccl_id() {
  ncclUniqueId id;
  check(ncclGetUniqueId(&id), "ncclGetUniqueId");
  NcclId out;
  static_assert(sizeof id == sizeof out);
  std::memcpy(out.data(), &id, sizeof id);
  return out;
}

struct NcclGroup::Impl {
  Communicator comm;
  cudaStream_t compute, stream;

  Impl(const NcclId& id, int rank, int size, Device device, bool beside, const std::string& call)
      : comm(id, rank, size, kCollectiveBlocks, call),
        compute(compute_stream_of(device)),
        stream(beside ? make_urgent_stream() : compute) {}
  ~Impl() {
    if (stream != compute) cudaStreamDestroy(stream);
  }

  template <class Start>
  Event run(const std::string& call, const Start& start) const {
    note_queued(call);
    Event::after(compute).hold(stream);
    check(start(), call);
    return Event::after(stream);
  }
};

NcclGroup::NcclGroup(const NcclId& id, int rank, int size, Device device, bool beside)
    : impl_(std::make_unique<Impl>(id, rank, size, device, beside,
                                   fmt::format("joining {} GPUs as rank {}", size, rank))) {}
NcclGroup::~NcclGroup() = default;

Event NcclGroup::all_reduce(const Tensor& tensor, Reduce op, const std::string& call) const {
  constexpr ncclRedOp_t ops[] = {ncclSum, ncclMax, ncclMin};
  return impl_->run(call, [&] {
    return ncclAllReduce(tensor.raw(), tensor.raw(), tensor.numel(), type_of(tensor.dtype()),
                         ops[static_cast<int>(op)], impl_->comm.get(), impl_->stream);
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

struct NcclWay::Impl {
  Communicator comm;
  cudaStream_t stream, compute;
  int64_t count = 0;

  Impl(const NcclId& id, bool sends, Device device, const std::string& call)
      : comm(id, sends ? 0 : 1, 2, kMessageBlocks, call),
        stream(make_urgent_stream()),
        compute(compute_stream_of(device)) {}
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

NcclWay::NcclWay(const NcclId& id, bool sends, Device device, const std::string& call)
    : impl_(std::make_unique<Impl>(id, sends, device, call)) {
  const Tensor first = Tensor::zeros({1}, DType::u8, device);
  Event::after(impl_->compute).hold(impl_->stream);
  sends ? impl_->send(first, call) : impl_->receive(first, call);
  wait_for(impl_->stream);
}
NcclWay::~NcclWay() = default;

int64_t NcclWay::count() const { return impl_->count; }

Event NcclWay::send(const Tensor& tensor, const std::string& call) {
  ++impl_->count;
  Event::after(impl_->compute).hold(impl_->stream);
  impl_->send(tensor, call);
  return Event::after(impl_->stream);
}

Event NcclWay::receive(const Tensor& tensor, const Event& ready, const std::string& call) {
  ++impl_->count;
  ready.hold(impl_->stream);
  impl_->receive(tensor, call);
  return Event::after(impl_->stream);
}

}  // namespace wuneng::cuda

#include "runtime/cuda/nccl.h"

#include <nccl.h>

#include <cstring>
#include <exception>

#include "runtime/cuda/waiting.h"

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

}  // namespace

struct NcclGroup::Impl {
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  int health_check = 0;
};

NcclId NcclGroup::make_id() {
  ncclUniqueId id;
  check(ncclGetUniqueId(&id), "ncclGetUniqueId");
  NcclId out;
  static_assert(sizeof id == sizeof out);
  std::memcpy(out.data(), &id, sizeof id);
  return out;
}

NcclGroup::NcclGroup(const NcclId& id, int rank, int size, Device device) : impl_(std::make_unique<Impl>()) {
  ncclUniqueId unique;
  std::memcpy(&unique, id.data(), sizeof unique);
  impl_->stream = static_cast<cudaStream_t>(compute_stream(device).handle);
  check(ncclCommInitRank(&impl_->comm, size, unique, rank),
        fmt::format("joining {} GPUs as rank {}", size, rank));
  impl_->health_check = add_health_check([comm = impl_->comm] {
    ncclResult_t found = ncclSuccess;
    check(ncclCommGetAsyncError(comm, &found), "ncclCommGetAsyncError");
    return found == ncclSuccess || found == ncclInProgress ? std::string() : ncclGetErrorString(found);
  });
}

NcclGroup::~NcclGroup() {
  remove_health_check(impl_->health_check);
  std::uncaught_exceptions() > 0 ? ncclCommAbort(impl_->comm) : ncclCommDestroy(impl_->comm);
}

void NcclGroup::all_reduce(const Tensor& tensor, Reduce op, const std::string& call) const {
  constexpr ncclRedOp_t ops[] = {ncclSum, ncclMax, ncclMin};
  note_queued(call);
  check(ncclAllReduce(tensor.raw(), tensor.raw(), tensor.numel(), type_of(tensor.dtype()),
                      ops[static_cast<int>(op)], impl_->comm, impl_->stream),
        call);
}

void NcclGroup::broadcast(const Tensor& tensor, int root, const std::string& call) const {
  note_queued(call);
  check(ncclBroadcast(tensor.raw(), tensor.raw(), tensor.bytes(), ncclInt8, root, impl_->comm, impl_->stream),
        call);
}

void NcclGroup::all_gather(const Tensor& mine, const Tensor& all, const std::string& call) const {
  note_queued(call);
  check(ncclAllGather(mine.raw(), all.raw(), mine.bytes(), ncclInt8, impl_->comm, impl_->stream), call);
}

}  // namespace wuneng::cuda

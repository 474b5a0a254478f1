// The part of NCCL that wuneng uses, emulated between processes of one machine (see cuda_runtime.h).
#pragma once
#include <cstddef>

#include "cuda_runtime.h"

enum ncclResult_t { ncclSuccess = 0, ncclSystemError = 2, ncclInvalidUsage = 5, ncclInProgress = 7 };
enum ncclDataType_t { ncclInt8, ncclInt32, ncclInt64, ncclFloat32, ncclFloat64, ncclBfloat16 };
enum ncclRedOp_t { ncclSum, ncclMax, ncclMin };
struct ncclUniqueId {
  char internal[128];
};
namespace emulator {
int64_t nccl_sends();  // that this process has begun
}
using ncclComm_t = struct EmulatedNccl*;

struct ncclConfig_t {
  int cgaClusterSize, maxCTAs;
};
#define NCCL_CONFIG_INITIALIZER \
  { 4, 0 }

namespace emulator {
// The multiprocessors that a message or a collective of each open communicator may occupy, together.
int communication_blocks();
}  // namespace emulator

const char* ncclGetErrorString(ncclResult_t code);
ncclResult_t ncclGetUniqueId(ncclUniqueId* id);
// As NCCL's, refuses two ranks whose current devices are the same.
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t*);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error);
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclCommDestroy(ncclComm_t comm);
// These two read the input at once and write the result when the stream is waited for; they abort if the
// input is modified in between.
ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t, ncclRedOp_t, ncclComm_t,
                           cudaStream_t);
ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count_each, ncclDataType_t, ncclRedOp_t,
                               ncclComm_t, cudaStream_t);
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t, int root, ncclComm_t,
                           cudaStream_t);
ncclResult_t ncclAllGather(const void* from, void* to, size_t count_each, ncclDataType_t, ncclComm_t,
                           cudaStream_t);
// Unlike NCCL's, a send does not wait for its receive, but it aborts if the buffer is modified before the
// stream has been waited for. A receive happens when its stream is waited for.
ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t, int peer, ncclComm_t, cudaStream_t);
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t, int peer, ncclComm_t, cudaStream_t);

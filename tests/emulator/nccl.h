// The part of NCCL that wuneng uses, emulated between processes of one machine: see cuda_runtime.h beside it.
#pragma once
#include <cstddef>

#include "cuda_runtime.h"

enum ncclResult_t { ncclSuccess = 0, ncclSystemError = 2, ncclInvalidUsage = 5, ncclInProgress = 7 };
enum ncclDataType_t { ncclInt8, ncclInt32, ncclInt64, ncclFloat32, ncclFloat64, ncclBfloat16 };
enum ncclRedOp_t { ncclSum, ncclMax, ncclMin };
struct ncclUniqueId {
  char internal[128];
};
using ncclComm_t = struct EmulatedNccl*;

struct ncclConfig_t {
  int maxCTAs;
};
#define NCCL_CONFIG_INITIALIZER \
  { 0 }

const char* ncclGetErrorString(ncclResult_t code);
ncclResult_t ncclGetUniqueId(ncclUniqueId* id);
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t*);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error);
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclCommDestroy(ncclComm_t comm);
// Takes this rank's part at once and writes the sum when somebody waits for the stream; the program ends
// where the buffer is changed in between.
ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t, ncclRedOp_t, ncclComm_t,
                           cudaStream_t);
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t, int root, ncclComm_t,
                           cudaStream_t);
ncclResult_t ncclAllGather(const void* from, void* to, size_t count_each, ncclDataType_t, ncclComm_t,
                           cudaStream_t);
// A send does not wait for its receive, unlike NCCL's, but the program ends where the buffer is changed
// before the stream's work has been waited for. A receive takes place when somebody waits for its stream.
ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t, int peer, ncclComm_t, cudaStream_t);
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t, int peer, ncclComm_t, cudaStream_t);

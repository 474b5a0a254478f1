#include "nccl.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <random>
#include <vector>

#include "runtime/dtype.h"

namespace {

constexpr size_t kSlot = 1 << 20;  // bytes of one rank's part of the shared memory

// What the ranks of a communicator share: a barrier, then a slot for each.
struct Shared {
  std::atomic<int> joined, arrived, left;
  std::atomic<int> round;
};

size_t size_of(ncclDataType_t type) {
  constexpr size_t sizes[] = {1, 4, 8, 4, 8, 2};
  return sizes[type];
}

template <class T>
void combine(T* into, const T* from, size_t count, ncclRedOp_t op) {
  for (size_t i = 0; i < count; ++i)
    into[i] = op == ncclSum   ? static_cast<T>(into[i] + from[i])
              : op == ncclMax ? std::max(into[i], from[i])
                              : std::min(into[i], from[i]);
}

// As a ring does: rounded after each rank.
void combine(wuneng::bf16* into, const wuneng::bf16* from, size_t count, ncclRedOp_t op) {
  for (size_t i = 0; i < count; ++i) {
    auto a = static_cast<float>(into[i]);
    const auto b = static_cast<float>(from[i]);
    combine(&a, &b, 1, op);
    into[i] = wuneng::bf16(a);
  }
}

}  // namespace

struct EmulatedNccl {
  Shared* shared = nullptr;
  size_t bytes = 0;
  int rank = 0, ranks = 1;

  char* slot(int r) const { return reinterpret_cast<char*>(shared) + kSlot * (r + 1); }

  void barrier() const {
    const int round = shared->round;
    if (++shared->arrived == ranks) {
      shared->arrived = 0;
      ++shared->round;
      return;
    }
    while (shared->round == round) sched_yield();
  }

  // Every rank's bytes [at, at + size) of its own data in its slot, for use(size) until all are done.
  template <class Use>
  void exchange(const void* from, size_t bytes_each, bool gives, const Use& use) const {
    std::vector<char> piece(kSlot);
    for (size_t at = 0; at < bytes_each; at += kSlot) {
      const size_t size = std::min(kSlot, bytes_each - at);
      if (gives) {
        cudaMemcpyAsync(piece.data(), static_cast<const char*>(from) + at, size, cudaMemcpyDefault, nullptr);
        std::memcpy(slot(rank), piece.data(), size);
      }
      barrier();
      use(at, size);
      barrier();
    }
  }
};

const char* ncclGetErrorString(ncclResult_t code) {
  return code == ncclSuccess ? "no error" : code == ncclSystemError ? "system error" : "invalid usage";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::random_device random;
  std::snprintf(id->internal, sizeof id->internal, "/wuneng-nccl-%d-%08x%08x", getpid(), random(), random());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  const size_t bytes = kSlot * (ranks + 1);
  const int file = shm_open(id.internal, O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) return ncclSystemError;
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (at == MAP_FAILED) return ncclSystemError;
  *comm = new EmulatedNccl{static_cast<Shared*>(at), bytes, rank, ranks};
  ++(*comm)->shared->joined;
  while ((*comm)->shared->joined < ranks) sched_yield();
  if (rank == 0) shm_unlink(id.internal);  // all have it mapped
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) {
  return *error = ncclSuccess, ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  munmap(comm->shared, comm->bytes);
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) { return ncclCommDestroy(comm); }

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  emulator::catch_up(stream);
  if (type == ncclInt8) return ncclInvalidUsage;
  std::vector<char> total(kSlot);
  comm->exchange(from, count * size_of(type), true, [&](size_t at, size_t size) {
    std::memcpy(total.data(), comm->slot(0), size);
    for (int r = 1; r < comm->ranks; ++r) {  // in one order on all ranks
      const char* other = comm->slot(r);
      const size_t n = size / size_of(type);
      const auto add = [&](auto one) {
        using T = decltype(one);
        combine(reinterpret_cast<T*>(total.data()), reinterpret_cast<const T*>(other), n, op);
      };
      if (type == ncclFloat32) add(float{});
      if (type == ncclBfloat16) add(wuneng::bf16{});
      if (type == ncclFloat64) add(double{});
      if (type == ncclInt32) add(int32_t{});
      if (type == ncclInt64) add(int64_t{});
    }
    cudaMemcpyAsync(static_cast<char*>(to) + at, total.data(), size, cudaMemcpyDefault, nullptr);
  });
  return ncclSuccess;
}

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  emulator::catch_up(stream);
  comm->exchange(from, count * size_of(type), comm->rank == root, [&](size_t at, size_t size) {
    cudaMemcpyAsync(static_cast<char*>(to) + at, comm->slot(root), size, cudaMemcpyDefault, nullptr);
  });
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count_each, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  emulator::catch_up(stream);
  const size_t each = count_each * size_of(type);
  comm->exchange(from, each, true, [&](size_t at, size_t size) {
    for (int r = 0; r < comm->ranks; ++r)
      cudaMemcpyAsync(static_cast<char*>(to) + r * each + at, comm->slot(r), size, cudaMemcpyDefault,
                      nullptr);
  });
  return ncclSuccess;
}

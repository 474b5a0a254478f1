#include "nccl.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "runtime/dtype.h"

namespace {

constexpr size_t kSlot = 1 << 20;  // bytes of one rank's part of the shared memory

constexpr int kMostRanks = 32;

// What the ranks of a communicator share: a barrier, the number of messages sent, then a slot for each rank.
struct Shared {
  std::atomic<int> joined, arrived, left;
  std::atomic<int> round;
  std::atomic<int> sent[kMostRanks][kMostRanks];  // from, to
};
static_assert(sizeof(Shared) <= kSlot);

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
  std::string name;
  int received[kMostRanks] = {};  // by sender

  std::string message(int from, int to, int number) const {
    return name + "-" + std::to_string(from) + "-" + std::to_string(to) + "-" + std::to_string(number);
  }
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

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t*) {
  if (ranks > kMostRanks) return ncclInvalidUsage;
  const size_t bytes = kSlot * (ranks + 1);
  const int file = shm_open(id.internal, O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) return ncclSystemError;
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (at == MAP_FAILED) return ncclSystemError;
  *comm = new EmulatedNccl{static_cast<Shared*>(at), bytes, rank, ranks, id.internal};
  ++(*comm)->shared->joined;
  while ((*comm)->shared->joined < ranks) sched_yield();
  if (rank == 0) shm_unlink(id.internal);  // all have it mapped
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) {
  return *error = ncclSuccess, ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  ++comm->shared->left;
  munmap(comm->shared, comm->bytes);
  delete comm;
  return ncclSuccess;
}
// As NCCL's on one node: returns when all ranks have come.
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  ++comm->shared->left;
  while (comm->shared->left < comm->ranks) sched_yield();
  munmap(comm->shared, comm->bytes);
  delete comm;
  return ncclSuccess;
}

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

namespace {

// A piece of shared memory for one message, 8 bytes longer than it: none is empty.
struct Message {
  size_t size = 0;  // of the piece
  char* at = nullptr;

  Message(const std::string& name, int flags, size_t bytes) {
    const int file = shm_open(name.c_str(), flags, 0600);
    if (flags & O_CREAT && ftruncate(file, static_cast<off_t>(bytes + 8)) != 0) std::abort();
    struct stat about = {};
    fstat(file, &about);
    size = static_cast<size_t>(about.st_size);
    at = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    close(file);
    if (at == MAP_FAILED) std::abort();
  }
  ~Message() { munmap(at, size); }
  Message(const Message&) = delete;
};

// What was sent and may not have been received: gone with the program.
struct Sent {
  std::vector<std::string> names;
  ~Sent() {
    for (const std::string& name : names) shm_unlink(name.c_str());
  }
} g_sent;

std::vector<char> copied(const void* from, size_t bytes) {
  std::vector<char> out(bytes);
  cudaMemcpyAsync(out.data(), from, bytes, cudaMemcpyDefault, nullptr);
  return out;
}

}  // namespace

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  emulator::catch_up(stream);
  const size_t bytes = count * size_of(type);
  const std::vector<char> body = copied(from, bytes);
  std::atomic<int>& sent = comm->shared->sent[comm->rank][peer];
  g_sent.names.push_back(comm->message(comm->rank, peer, sent));
  std::memcpy(Message(g_sent.names.back(), O_CREAT | O_EXCL | O_RDWR, bytes).at + 8, body.data(), bytes);
  ++sent;
  emulator::put(stream, [=] {
    if (copied(from, bytes) == body) return;
    std::fprintf(stderr, "emulator: ncclSend of %zu bytes: the buffer was changed while it was sent\n",
                 bytes);
    std::abort();
  });
  return ncclSuccess;
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  emulator::put(stream, [=] {
    while (comm->shared->sent[peer][comm->rank] <= comm->received[peer]) sched_yield();
    const std::string name = comm->message(peer, comm->rank, comm->received[peer]++);
    const Message message(name, O_RDWR, 0);
    shm_unlink(name.c_str());
    if (message.size != bytes + 8) {
      std::fprintf(stderr, "emulator: ncclRecv of %zu bytes meets ncclSend of %zu\n", bytes,
                   message.size - 8);
      std::abort();
    }
    cudaMemcpyAsync(to, message.at + 8, bytes, cudaMemcpyDefault, nullptr);
  });
  return ncclSuccess;
}

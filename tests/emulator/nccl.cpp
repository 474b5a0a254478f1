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
int64_t g_sends = 0;

// Shared memory of a communicator: a barrier, the numbers of all-reduces started and messages sent, then a
// slot for each rank.
struct Shared {
  std::atomic<int> joined, arrived, left;
  std::atomic<int> round;
  std::atomic<int> begun[kMostRanks];             // all-reduces, by rank
  std::atomic<int> sent[kMostRanks][kMostRanks];  // from, to
  std::atomic<int> device[kMostRanks];            // by rank
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

// Rounded after each rank, as in a ring.
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
  int blocks = 0;
  int received[kMostRanks] = {};  // by sender
  cudaStream_t stream = nullptr;  // of the last call

  std::string part(int of, int number) const {
    return name + "-sum-" + std::to_string(of) + "-" + std::to_string(number);
  }
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

  // Puts bytes [at, at + size) of every rank's data in its slot and calls use(size).
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

namespace emulator {
namespace {
std::atomic<int> g_communicators = 0, g_communication_blocks = 0;
std::atomic<bool> g_messages = false;  // has this process sent or received one?
}  // namespace
void require_no_channels(const char* call) {
  if (g_communicators == 0 || !g_messages) return;
  std::fprintf(stderr, "emulator: %s may wait for the device, and so for a message\n", call);
  std::abort();
}
int communication_blocks() { return g_communication_blocks; }
void require_no_messages(const char* call) {
  if (g_communicators == 0) return;
  std::fprintf(stderr, "emulator: %s may wait for the device, with %d NCCL communicators open\n", call,
               g_communicators.load());
  std::abort();
}
}  // namespace emulator

const char* ncclGetErrorString(ncclResult_t code) {
  return code == ncclSuccess ? "no error" : code == ncclSystemError ? "system error" : "invalid usage";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::random_device random;
  std::snprintf(id->internal, sizeof id->internal, "/wuneng-nccl-%d-%08x%08x", getpid(), random(), random());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (ranks > kMostRanks) return ncclInvalidUsage;
  const size_t bytes = kSlot * (ranks + 1);
  const int file = shm_open(id.internal, O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) return ncclSystemError;
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (at == MAP_FAILED) return ncclSystemError;
  *comm = new EmulatedNccl{static_cast<Shared*>(at), bytes, rank, ranks, id.internal, config->maxCTAs};
  ++emulator::g_communicators;
  emulator::g_communication_blocks += config->maxCTAs;
  Shared& shared = *(*comm)->shared;
  shared.device[rank] = emulator::current_device();
  ++shared.joined;
  while (shared.joined < ranks) sched_yield();
  if (rank == 0) shm_unlink(id.internal);  // all ranks have mapped it
  for (int r = 0; r < ranks; ++r)
    if (r != rank && shared.device[r] == shared.device[rank]) {
      std::fprintf(stderr, "emulator: NCCL: duplicate GPU detected: rank %d and rank %d both on device %d\n",
                   rank, r, shared.device[rank].load());
      return ncclInvalidUsage;
    }
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) {
  return *error = ncclSuccess, ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  --emulator::g_communicators;
  emulator::g_communication_blocks -= comm->blocks;
  ++comm->shared->left;
  munmap(comm->shared, comm->bytes);
  delete comm;
  return ncclSuccess;
}
// As NCCL on one node: returns when all ranks have called it.
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  emulator::catch_up(comm->stream);
  ++comm->shared->left;
  while (comm->shared->left < comm->ranks) sched_yield();
  --emulator::g_communicators;
  emulator::g_communication_blocks -= comm->blocks;
  munmap(comm->shared, comm->bytes);
  delete comm;
  return ncclSuccess;
}

namespace {

// Shared memory for one message or a rank's part of an all-reduce, with 8 extra bytes.
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
  // Counts readers in the extra 8 bytes.
  int count_reader() const { return ++*reinterpret_cast<std::atomic<int>*>(at); }
  Message(const Message&) = delete;
};

// A message that was sent and may not have been received; removed at exit.
struct Sent {
  std::vector<std::string> names;
  void add(const std::string& name, const std::vector<char>& body) {
    names.push_back(name);
    std::memcpy(Message(name, O_CREAT | O_EXCL | O_RDWR, body.size()).at + 8, body.data(), body.size());
  }
  ~Sent() {
    for (const std::string& name : names) shm_unlink(name.c_str());
  }
} g_sent;

std::vector<char> copied(const void* from, size_t bytes) {
  std::vector<char> out(bytes);
  cudaMemcpyAsync(out.data(), from, bytes, cudaMemcpyDefault, nullptr);
  return out;
}

void check_unchanged(const void* buffer, const std::vector<char>& body, const char* call) {
  if (copied(buffer, body.size()) == body) return;
  std::fprintf(stderr, "emulator: %s of %zu bytes: the buffer was modified before the call ended\n", call,
               body.size());
  std::abort();
}

// Writes elements [begin, begin + result) of what the ranks' `count` elements are reduced to.
ncclResult_t reduce(const char* call, const void* from, size_t count, void* to, size_t begin, size_t result,
                    ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  emulator::catch_up(stream);
  comm->stream = stream;
  if (type == ncclInt8) return ncclInvalidUsage;
  const std::vector<char> body = copied(from, count * size_of(type));
  const int number = comm->shared->begun[comm->rank];
  g_sent.add(comm->part(comm->rank, number), body);
  ++comm->shared->begun[comm->rank];
  emulator::put(stream, [=] {
    check_unchanged(from, body, call);
    std::vector<char> total(body.size());
    for (int r = 0; r < comm->ranks; ++r) {  // in the same order on all ranks
      while (comm->shared->begun[r] <= number) sched_yield();
      const std::string name = comm->part(r, number);
      const Message part(name, O_RDWR, 0);
      if (part.size != body.size() + 8) {
        std::fprintf(stderr, "emulator: %s of %zu bytes, of %zu bytes on another rank\n", call, body.size(),
                     part.size - 8);
        std::abort();
      }
      const char* const values = part.at + 8;
      const auto add = [&](auto one) {
        using T = decltype(one);
        combine(reinterpret_cast<T*>(total.data()), reinterpret_cast<const T*>(values), count, op);
      };
      if (r == 0) std::memcpy(total.data(), values, total.size());
      if (r > 0 && type == ncclFloat32) add(float{});
      if (r > 0 && type == ncclBfloat16) add(wuneng::bf16{});
      if (r > 0 && type == ncclFloat64) add(double{});
      if (r > 0 && type == ncclInt32) add(int32_t{});
      if (r > 0 && type == ncclInt64) add(int64_t{});
      if (part.count_reader() == comm->ranks) shm_unlink(name.c_str());
    }
    const size_t element = size_of(type);
    cudaMemcpyAsync(to, total.data() + begin * element, result * element, cudaMemcpyDefault, nullptr);
  });
  return ncclSuccess;
}

}  // namespace

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return reduce("ncclAllReduce", from, count, to, 0, count, type, op, comm, stream);
}

ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count_each, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return reduce("ncclReduceScatter", from, count_each * comm->ranks, to, count_each * comm->rank, count_each,
                type, op, comm, stream);
}

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  emulator::catch_up(stream);
  comm->stream = stream;
  std::vector<char> result(count * size_of(type));
  comm->exchange(from, result.size(), comm->rank == root,
                 [&](size_t at, size_t size) { std::memcpy(result.data() + at, comm->slot(root), size); });
  emulator::put(stream,
                [=] { cudaMemcpyAsync(to, result.data(), result.size(), cudaMemcpyDefault, nullptr); });
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count_each, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  emulator::catch_up(stream);
  comm->stream = stream;
  const size_t each = count_each * size_of(type);
  std::vector<char> result(comm->ranks * each);
  comm->exchange(from, each, true, [&](size_t at, size_t size) {
    for (int r = 0; r < comm->ranks; ++r) std::memcpy(result.data() + r * each + at, comm->slot(r), size);
  });
  emulator::put(stream,
                [=] { cudaMemcpyAsync(to, result.data(), result.size(), cudaMemcpyDefault, nullptr); });
  return ncclSuccess;
}

int64_t emulator::nccl_sends() { return g_sends; }

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  emulator::catch_up(stream);
  emulator::g_messages = true;
  ++g_sends;
  const std::vector<char> body = copied(from, count * size_of(type));
  std::atomic<int>& sent = comm->shared->sent[comm->rank][peer];
  g_sent.add(comm->message(comm->rank, peer, sent), body);
  ++sent;
  emulator::put(stream, [=] { check_unchanged(from, body, "ncclSend"); });
  return ncclSuccess;
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  emulator::g_messages = true;
  emulator::put(stream, [=] {
    while (comm->shared->sent[peer][comm->rank] <= comm->received[peer]) sched_yield();
    const std::string name = comm->message(peer, comm->rank, comm->received[peer]++);
    const Message message(name, O_RDWR, 0);
    shm_unlink(name.c_str());
    if (message.size != bytes + 8) {
      std::fprintf(stderr, "emulator: ncclRecv of %zu bytes for ncclSend of %zu\n", bytes, message.size - 8);
      std::abort();
    }
    cudaMemcpyAsync(to, message.at + 8, bytes, cudaMemcpyDefault, nullptr);
  });
  return ncclSuccess;
}

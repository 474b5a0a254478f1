// Comm: a named group of ranks, and the single entry point for all communication between ranks.
//
// Every call is guarded (CallGuard in comm_impl.h): it is checked for types and sizes, counted and named for
// the trace and the hang report, and dispatched: identity for one rank, MPI for host tensors; for GPU tensors
// NCCL (see connect and connect_messages), or MPI on copies in host memory. A rank that waits in one call
// longer than the hang timeout prints its name, the call and its peers, and aborts the run.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/tensor.h"

namespace wuneng::cuda {
class Event;
}

namespace wuneng {

enum class Reduce { sum, max, min };

// A pending operation. Keeps its buffer alive. Must be waited for: its destructor aborts the run otherwise,
// except during stack unwinding.
class Request {
 public:
  struct Impl;  // request.h

  Request() = default;
  // True when finished: a sent tensor may be overwritten and a received one read, on a GPU by later work in
  // the compute stream. Never blocks.
  bool done();
  void wait();
  bool active() const { return impl_ != nullptr; }

 private:
  friend class Comm;
  std::shared_ptr<Impl> impl_;
};

class Comm {
 public:
  Comm();               // one rank: itself
  static Comm world();  // all ranks; MPI must be started (see Runtime)
  // Of a dry run: rank `rank` of a group of `size`, the only one that exists. Calls are checked as others are
  // and do nothing else; requests have ended. split() gives all ranks one group, with their keys as ranks.
  static Comm dry(int rank, int size, const std::string& name);

  int rank() const;
  int size() const;
  const std::string& name() const;              // "world", "student.tp"
  const std::vector<int>& world_ranks() const;  // the world rank of each member

  // Collective over this group. Ranks with equal color form a group, ordered by key. color < 0: in no group
  // (size-1 identity).
  Comm split(int color, int key, const std::string& name) const;

  // Collective. Later collective calls on tensors of this GPU use NCCL, ordered with the compute stream;
  // those that do not block run on a stream of their own. max and min may then drop a NaN. Does nothing if
  // ranks of the group share a GPU (NCCL does not support that), if the build has no NCCL, or on the CPU:
  // then calls are staged through host memory. overlap = false runs those in the compute stream too, to
  // measure the effect of overlap; results are bitwise the same.
  void connect(Device device, bool overlap = true) const;

  // Collective; `channels` must be equal on all ranks. Later messages of GPU tensors from channel.from to
  // channel.to (ranks of this group) use NCCL on a stream per channel: a send waits for the work that is in
  // the compute stream now, and Request::wait makes the compute stream wait, not the host. Both tensors of a
  // message on a channel must be on GPUs, and receives must be waited for in the order of the sends. Has no
  // effect for two ranks that share a GPU, and in the cases listed at connect. blocks: thread blocks, each on
  // a multiprocessor of its own, that a message has until it is received.
  // when_ready: a message has them only when what it sends is there and its receiver waits for it, or has
  // asked whether it has come (Request::done): until then the send is not begun. It goes on in the sender's
  // own calls and waits (runtime/progress.h). Only where no two ranks of the group share a GPU.
  struct Channel {
    int from, to;
  };
  void connect_messages(Device device, const std::vector<Channel>& channels, int blocks = 4,
                        bool when_ready = false) const;
  bool sends_wait_for_receivers() const;  // connected when_ready

  // what: names the call in reports, e.g. "grad norm". Tensors of any type and length, for reductions f32,
  // bf16, f64, i32 or i64; shapes must be equal on all ranks (compared before each call with
  // WUNENG_CHECK_COLLECTIVES=1). Results are bitwise equal on all ranks and from run to run; max and min
  // propagate a NaN of any rank. A sum of bf16 is computed in f32 and rounded once; NCCL may round after each
  // rank.
  void all_reduce(const Tensor& tensor, Reduce op, const char* what) const;
  // Non-blocking all_reduce: the tensor must not be accessed until the request is waited for. With NCCL it
  // runs on a stream of its own after the work that is in the compute stream now, and Request::wait makes the
  // compute stream wait, not the host. Without NCCL it runs in Request::wait, and done() is false until then.
  // All ranks must start and wait for the all-reduces of a group in the same order.
  Request iall_reduce(const Tensor& tensor, Reduce op, const char* what) const;
  // Sums over the ranks, of which each gets its share: the tensor is cut into size() equal parts of its
  // elements, part r is rank r's sum afterwards, and the others are of no use. Through the host a sum is
  // equal to that of all_reduce to the bit; NCCL may add in another order where there are more than two
  // ranks.
  void reduce_scatter(const Tensor& tensor, const char* what) const;
  Request ireduce_scatter(const Tensor& tensor, const char* what) const;  // as iall_reduce
  void broadcast(const Tensor& tensor, int root, const char* what) const;
  // all: [size, ...mine]; `mine` may be its place in it.
  void all_gather(const Tensor& mine, const Tensor& all, const char* what) const;
  Request iall_gather(const Tensor& mine, const Tensor& all, const char* what) const;  // as iall_reduce
  void barrier(const char* what) const;
  std::vector<std::string> all_gather_text(const std::string& mine, const char* what) const;

  // Point to point, any length; peer is a rank of this group. Sizes must be equal on both sides, which the
  // receiver checks.
  Request isend(const Tensor& tensor, int peer, int tag, const char* what) const;
  Request irecv(const Tensor& tensor, int peer, int tag, const char* what) const;
  void send(const Tensor& tensor, int peer, int tag, const char* what) const;
  void recv(const Tensor& tensor, int peer, int tag, const char* what) const;

  double all_reduce(double value, Reduce op, const char* what) const;

 private:
  struct Impl;
  struct Call;
  class CallGuard;
  explicit Comm(std::shared_ptr<Impl> impl);
  Call of_reduce_scatter(const Tensor& tensor, const char* what) const;
  Call of_all_gather(const Tensor& mine, const Tensor& all, const char* what) const;
  void reduce_on_host(const Tensor& tensor, Reduce op, bool scatters, const CallGuard& call) const;
  // Requests of a collective that writes a tensor: one that NCCL has begun, and one that waiting for it runs.
  // `read` stays allocated as well.
  Request under_way(const Tensor& written, const std::string& call, const cuda::Event& ended,
                    const Tensor& read = {}) const;
  Request later(const Tensor& written, const std::string& call, std::function<void()> run) const;
  std::shared_ptr<Impl> impl_;
};

// Runs the watchdog, and for a program of several ranks MPI and the heartbeat.
class Runtime {
 public:
  // A program of one process: without MPI, also where a launcher started it.
  Runtime();
  // Initialises MPI if the program was launched under it; the destructor finalises it. Throws if the launcher
  // started more ranks than MPI sees (srun without PMIx). directory: seen by all ranks, where they find each
  // other for the heartbeat (heartbeat.h); empty: none. messages: false where ranks never call
  // Comm::connect_messages; the driver then loads kernels when they are needed.
  Runtime(int* argc, char*** argv, const std::string& directory = "", bool messages = true);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  // Default 600 s; 0: never. WUNENG_HANG_TIMEOUT overrides it. Before Runtime is made: MPI_Init is watched.
  static void set_hang_timeout(double seconds);
  // This rank's index among the ranks of its node.
  static int local_rank();
  // Aborts all ranks with this exit code after an error on one of them.
  [[noreturn]] static void abort(int code);
};

// Collective over all ranks, before they connect: cuda::reserve() on this rank's GPU, where any two ranks
// have different GPUs, so that some may use NCCL. share: of the GPU's free memory, for all ranks that are on
// it.
void reserve_gpu_memory(const Comm& world, Device device, double share);

}  // namespace wuneng

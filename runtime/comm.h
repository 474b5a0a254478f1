// Comm: a named group of ranks and the one entry point for everything that ranks say to each other.
//
// Every call goes through one gate that checks types and sizes, counts and names the call for the trace and
// the hang report, and dispatches: identity for one rank, MPI for host tensors, and for a GPU's NCCL (see
// connect and connect_messages) or their copies on the host. A rank that waits in one call longer than the
// hang timeout prints who it is, what it waits for and with whom, and aborts the run.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "runtime/tensor.h"

namespace wuneng {

enum class Reduce { sum, max, min };

// An operation under way. Keeps its buffer alive; must be waited for (the destructor aborts the run
// otherwise, unless an exception is unwinding).
class Request {
 public:
  struct Impl;  // messages.cpp's

  Request() = default;
  // True when finished: what was sent may be written to and what was received be read, on a GPU in the
  // compute stream's order. Never blocks.
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

  int rank() const;
  int size() const;
  const std::string& name() const;              // "world", "student.tp"
  const std::vector<int>& world_ranks() const;  // the world rank of each member

  // Collective over this group. Ranks with equal color form a group, ordered by key. color < 0: in no group
  // (size-1 identity).
  Comm split(int color, int key, const std::string& name) const;

  // Collective. From now on collective calls on tensors of this GPU go from GPU to GPU by NCCL, in the
  // compute stream's order, those of iall_reduce beside it; max and min may then drop a NaN. Where ranks of
  // the group share a GPU, which NCCL refuses, or the build has no NCCL, or on the CPU, nothing changes:
  // messages are staged through the host. overlap: false has iall_reduce run in the compute stream's order as
  // well, to measure what overlap gives; results stay the same to the bit.
  void connect(Device device, bool overlap = true) const;

  // Collective. From now on messages of GPU tensors on these ways (the same on all ranks), each from one rank
  // of this group to another, go from GPU to GPU by NCCL, on streams beside the compute stream: a send waits
  // for the compute stream's work so far, and who waits for a message has the compute stream wait, not the
  // host. On a way both tensors are on GPUs, and receives are waited for in the order of the sends. Where two
  // ranks share a GPU, and else as for connect, nothing changes.
  struct Way {
    int from, to;
  };
  void connect_messages(Device device, const std::vector<Way>& ways) const;

  // what: names the call in reports, e.g. "grad norm". Tensors of any type, reductions of f32, bf16, f64, i32
  // and i64; shapes equal on all ranks (compared before each call with WUNENG_CHECK_COLLECTIVES=1). Of any
  // length. Results are bitwise equal on all ranks and from run to run; max and min keep a NaN that any rank
  // has. A sum of bf16 is formed in f32 and rounded once; NCCL may round after each rank.
  void all_reduce(const Tensor& tensor, Reduce op, const char* what) const;
  // The same, begun: the tensor is left alone until the request is waited for. By NCCL the sum is formed
  // beside the compute stream, after its work so far, and who waits has the compute stream wait, not the
  // host. Else it is formed when it is waited for, and done() is false until then. All ranks begin and wait
  // for a group's sums in one order.
  Request iall_reduce(const Tensor& tensor, Reduce op, const char* what) const;
  void broadcast(const Tensor& tensor, int root, const char* what) const;
  void all_gather(const Tensor& mine, const Tensor& all, const char* what) const;  // all: [size, ...mine]
  void barrier(const char* what) const;
  std::vector<std::string> all_gather_text(const std::string& mine, const char* what) const;

  // Point to point, of any length; peer is a rank of this group; sizes must be equal on both sides, checked
  // on receipt.
  Request isend(const Tensor& tensor, int peer, int tag, const char* what) const;
  Request irecv(const Tensor& tensor, int peer, int tag, const char* what) const;
  void send(const Tensor& tensor, int peer, int tag, const char* what) const;
  void recv(const Tensor& tensor, int peer, int tag, const char* what) const;

  double all_reduce(double value, Reduce op, const char* what) const;

 private:
  struct Impl;
  struct Call;
  class Gate;
  explicit Comm(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

// Starts and ends MPI where the program was launched under it, and runs the watchdog. Throws where the
// launcher started more ranks than MPI sees (srun without PMIx).
class Runtime {
 public:
  explicit Runtime(int* argc, char*** argv);
  ~Runtime();
  // Default 600 s; 0: never. WUNENG_HANG_TIMEOUT, where set, wins.
  static void set_hang_timeout(double seconds);
  // This rank's number among the ranks of its node.
  static int local_rank();
  // Ends all ranks with this exit code after an error on one of them.
  [[noreturn]] static void abort(int code);
};

}  // namespace wuneng

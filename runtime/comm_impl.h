// Shared by comm.cpp, comm_impl.cpp and messages.cpp: the state of a group of ranks, and the guard of every
// call.
#pragma once
#include <map>
#include <optional>

#include "runtime/cuda/nccl.h"
#include "runtime/mpi_call.h"
#include "runtime/watchdog.h"

namespace wuneng {

// One end of a way for messages by NCCL.
struct MessageWay {
  std::shared_ptr<cuda::NcclChannel> channel;
  MPI_Comm ready = MPI_COMM_NULL;  // where the receiver says that it is; null: sends do not wait for that
  int64_t messages = 0,
          envelopes = 0;  // that wait for it or have: handed over, and announced to the receiver
};

struct Comm::Call {
  const char* operation;
  const char* what;
  const Tensor* tensor = nullptr;
  bool reduces = false;
  bool collective = true;
  bool begins = false;  // does not wait for other ranks
  bool needs_peer = false;
  int peer = -1;  // of a message; the root of a broadcast
  int tag = 0;

  Call begun() const {
    Call out = *this;
    out.begins = true;
    return out;
  }
  static Call message(const char* operation, const char* what, const Tensor& tensor, int peer, int tag) {
    return {.operation = operation,
            .what = what,
            .tensor = &tensor,
            .collective = false,
            .needs_peer = true,
            .peer = peer,
            .tag = tag};
  }
};

struct Comm::Impl {
  MPI_Comm comm = MPI_COMM_NULL;  // null: a group of this rank only
  int rank = 0, size = 1;
  bool dry = false;  // of a dry run: no other rank exists, and no call does anything
  std::string name = "self";
  std::vector<int> world_ranks = {mpi::state().world_rank};
  std::string members = std::to_string(mpi::state().world_rank);  // "0-2", for messages
  std::unique_ptr<cuda::NcclGroup> nccl;                          // after connect()

  using Ways = std::map<int, std::shared_ptr<MessageWay>>;   // by peer
  Ways ways_to, ways_from;                                   // after connect_messages()
  std::vector<std::shared_ptr<cuda::NcclChannel>> channels;  // in the order of their creation
  MPI_Comm ready = MPI_COMM_NULL;                            // of all ways that have it

  bool by_nccl(const Tensor& tensor) const { return nccl && tensor.device().kind == DeviceKind::cuda; }
  static std::shared_ptr<MessageWay> way(const Ways& ways, const Tensor& tensor, int peer) {
    const auto found = tensor.device().kind == DeviceKind::cuda ? ways.find(peer) : ways.end();
    return found == ways.end() ? nullptr : found->second;
  }

  Impl() = default;
  Impl(MPI_Comm group, std::string group_name);
  Impl(const Impl&) = delete;
  ~Impl();
};

// Guards one call: checks what one rank can check, counts and names the call, registers it with the watchdog
// while it lives, and with WUNENG_CHECK_COLLECTIVES=1 checks that all ranks are in the same call.
class Comm::CallGuard {
 public:
  CallGuard(const Impl& group, const Call& call);

  bool alone() const { return group_.size == 1 || group_.dry; }
  const std::string& text() const { return text_; }
  void operator()(int code) const { mpi::check(code, text_); }

  void barrier() const;
  // The texts of all ranks, by rank.
  std::vector<std::string> gather_text(const std::string& mine) const;

 private:
  // "broadcast 'weights' f32[3, 4] with world rank 2"; equal on all ranks of a collective call.
  std::string signature(const Call& c) const;
  std::string description(const Call& c) const;  // signature and group
  void check(const Call& c) const;
  double sent(const Call& c) const;
  void trace_waiting() const;
  void check_collectives(const std::string& mine) const;

  const Impl& group_;
  std::string text_;
  std::optional<watchdog::Waiting> waiting_;
};

}  // namespace wuneng

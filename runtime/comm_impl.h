// What comm.cpp and messages.cpp share of a group of ranks: its state, and the gate that every call goes
// through.
#pragma once
#include <map>
#include <optional>

#include "runtime/cuda/nccl.h"
#include "runtime/mpi_call.h"
#include "runtime/watchdog.h"

namespace wuneng {

struct Comm::Call {
  const char* operation;
  const char* what;
  const Tensor* tensor = nullptr;
  bool reduces = false;
  bool collective = true;
  bool needs_peer = false;
  int peer = -1;  // of a message; the root of a broadcast
  int tag = 0;

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
  MPI_Comm comm = MPI_COMM_NULL;  // null: this rank alone
  int rank = 0, size = 1;
  std::string name = "self";
  std::vector<int> world_ranks = {mpi::state().world_rank};
  std::string members = std::to_string(mpi::state().world_rank);  // "0,1,2", for messages
  std::unique_ptr<cuda::NcclGroup> nccl;                          // after connect()

  using Ways = std::map<int, std::shared_ptr<cuda::NcclWay>>;  // by peer
  Ways ways_to, ways_from;                                     // after connect_messages()
  std::vector<std::shared_ptr<cuda::NcclWay>> ways;            // all of them, as they were made

  bool by_nccl(const Tensor& tensor) const { return nccl && tensor.device().kind == DeviceKind::cuda; }
  static std::shared_ptr<cuda::NcclWay> way(const Ways& ways, const Tensor& tensor, int peer) {
    const auto found = tensor.device().kind == DeviceKind::cuda ? ways.find(peer) : ways.end();
    return found == ways.end() ? nullptr : found->second;
  }

  Impl() = default;
  Impl(MPI_Comm group, std::string group_name);
  Impl(const Impl&) = delete;
  ~Impl();
};

// The gate that every call goes through: checks what one rank can check, names and counts the call, tells the
// watchdog that this rank waits in it, and in check mode makes sure that all ranks are in the same call.
class Comm::Gate {
 public:
  Gate(const Impl& group, const Call& call);

  bool alone() const { return group_.size == 1; }
  const std::string& text() const { return text_; }
  void operator()(int code) const { mpi::check(code, text_); }

  // Every rank's text, by rank.
  std::vector<std::string> gather_text(const std::string& mine) const;

 private:
  // "broadcast 'weights' f32[3, 4] with world rank 2": equal on all ranks of a collective call.
  std::string signature(const Call& c) const;
  std::string place(const Call& c) const;
  void check(const Call& c) const;
  void check_alike(const std::string& mine) const;

  const Impl& group_;
  std::string text_;
  std::optional<watchdog::Waiting> waiting_;
};

}  // namespace wuneng

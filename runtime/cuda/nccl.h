// What GPUs say to each other by NCCL, where ranks have one each: collectives in the compute stream's order,
// and messages beside it. Calls return at once; who waits for the GPU (waiting.cpp) looks after errors.
//
// Why messages cannot wait for each other in a circle. A way has a communicator and a stream of its own, so
// nothing but an earlier message of the same way stands before a message:
// - A send waits for the compute stream's work so far, and ends when it has been received. The compute stream
//   waits for that end only where the sender asks for it (Request::wait), in the pipeline after its last
//   action.
// - A receive is put into its stream only after its send has been put into the sender's: a notice, sent by
//   MPI behind the send, says so (messages.cpp), in the same order on both sides. So a receive under way
//   waits for work alone that is in the sender's queue already, which in turn waits for such work, further
//   and further back: queues that every host filled in an order that a schedule's validator accepts, where
//   sends do not block and receives do, run to their end.
// - A GPU gives each stream its turn: a message's kernel occupies few multiprocessors (kMostBlocks), so that
//   those of all ways and a collective are on the GPU together; streams have queues of their own, and
//   kernels are loaded before any message (device.cpp); and a way sends a first message while it is made, since NCCL connects two ranks then and
//   holds up both hosts.
#pragma once
#include <array>
#include <memory>
#include <string>

#include "runtime/comm.h"
#include "runtime/cuda/event.h"

namespace wuneng::cuda {

using NcclId = std::array<char, 128>;

#ifdef WUNENG_WITH_NCCL
inline constexpr bool kHasNccl = true;

NcclId make_nccl_id();  // by one rank, for all of a communicator

class NcclGroup {
 public:
  // Collective: returns when all `size` ranks have come.
  NcclGroup(const NcclId& id, int rank, int size, Device device);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;

  // As Comm's, for tensors on this rank's GPU. call: its description, for messages.
  void all_reduce(const Tensor& tensor, Reduce op, const std::string& call) const;
  void broadcast(const Tensor& tensor, int root, const std::string& call) const;
  void all_gather(const Tensor& mine, const Tensor& all, const std::string& call) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One end of the messages from one rank to another.
class NcclWay {
 public:
  // By both ranks: returns when both have come. call: for messages.
  NcclWay(const NcclId& id, bool sends, Device device, const std::string& call);
  ~NcclWay();
  NcclWay(const NcclWay&) = delete;

  int64_t count() const;  // messages that this end has sent or received
  // The tensor must stay as it is until the event, which passes when it has been received.
  Event send(const Tensor& tensor, const std::string& call);
  // ready: what the tensor's memory was used for before has ended. The message is there when the event
  // passes.
  Event receive(const Tensor& tensor, const Event& ready, const std::string& call);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

#else
inline constexpr bool kHasNccl = false;

inline NcclId make_nccl_id() { return {}; }

class NcclGroup {  // there is none
 public:
  NcclGroup(const NcclId&, int, int, Device) { fail("this build has no NCCL"); }
  void all_reduce(const Tensor&, Reduce, const std::string&) const {}
  void broadcast(const Tensor&, int, const std::string&) const {}
  void all_gather(const Tensor&, const Tensor&, const std::string&) const {}
};

class NcclWay {
 public:
  NcclWay(const NcclId&, bool, Device, const std::string&) { fail("this build has no NCCL"); }
  int64_t count() const { return 0; }
  Event send(const Tensor&, const std::string&) { return {}; }
  Event receive(const Tensor&, const Event&, const std::string&) { return {}; }
};
#endif

}  // namespace wuneng::cuda

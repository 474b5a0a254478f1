// What GPUs say to each other by NCCL, where ranks have one each: collectives and messages, both on streams
// beside the compute stream. Calls return at once; who waits for the GPU (waiting.cpp) looks after errors.
//
// Why they cannot wait for each other in a circle. A group has a communicator and a stream of its own, and so
// has a way of messages; nothing but an earlier call of the same group or way stands before a call:
// - A collective waits for the compute stream's work so far and for the same call of the group's other ranks;
//   the compute stream waits for its end where the host asks for that (Request::wait), or never. So whatever
//   a rank's GPU waits for, its host has put into a queue before. Were every collective to hold up its host
//   till its end, as those through the host do, the program would run to its end: calls of different groups
//   follow each other in an order that all ranks accept. In that order no call waits for a later one, and
//   calls that hold up nobody wait for less.
// - A send waits for the compute stream's work so far, and ends when it has been received. The compute stream
//   waits for that end only where the sender asks for it (Request::wait), in the pipeline after its last
//   action.
// - A receive is put into its stream only after its send has been put into the sender's: a notice, sent by
//   MPI behind the send, says so (messages.cpp), in the same order on both sides. So a receive under way
//   waits for work alone that is in the sender's queue already, which in turn waits for such work, further
//   and further back: queues that every host filled in an order that a schedule's validator accepts, where
//   sends do not block and receives do, run to their end.
// - A GPU gives each stream its turn. Kernels of computation end by themselves; those of communication wait
//   for other GPUs, so all that a rank may have under way at a time are on the GPU together: a collective's
//   kernel occupies at most kCollectiveBlocks multiprocessors, one for each of four groups (tensor parallel,
//   data parallel, the ends and all stages of the pipeline), a message's at most kMessageBlocks. Streams
//   have queues of their own, and kernels are loaded before anything is under way (device.cpp). NCCL connects
//   ranks in a first call and holds up all their hosts: a way sends a first message while it is made; a
//   group's first call holds them up as the argument allows.
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
  // Collective: returns when all `size` ranks have come. beside: on a stream of its own; else on the compute
  // stream, where nothing overlaps.
  NcclGroup(const NcclId& id, int rank, int size, Device device, bool beside);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;

  // As Comm's, for tensors on this rank's GPU: after the compute stream's work so far; the tensors are left
  // alone until the event. call: its description, for messages.
  Event all_reduce(const Tensor& tensor, Reduce op, const std::string& call) const;
  Event broadcast(const Tensor& tensor, int root, const std::string& call) const;
  Event all_gather(const Tensor& mine, const Tensor& all, const std::string& call) const;

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
  NcclGroup(const NcclId&, int, int, Device, bool) { fail("this build has no NCCL"); }
  Event all_reduce(const Tensor&, Reduce, const std::string&) const { return {}; }
  Event broadcast(const Tensor&, int, const std::string&) const { return {}; }
  Event all_gather(const Tensor&, const Tensor&, const std::string&) const { return {}; }
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

// NCCL, for ranks with a GPU each: collectives, and messages between two ranks, on streams of their own.
// Calls return at once; errors are reported where the host waits for the GPU (waiting.cpp).
//
// Why there is no deadlock. Each group of ranks and each channel of messages has a communicator and a stream
// of its own, so a call is ordered only after earlier calls of the same group or channel:
// - A collective waits for the work that is in the compute stream when it is enqueued, and for the same
//   call on the group's other ranks. The compute stream waits for it only if the host asks for that
//   (Request::wait). So a GPU only waits for work that its host has enqueued before. If every collective
//   blocked its host until its end, as those through the host do, the program would complete: the calls of
//   different groups have an order that is consistent on all ranks. In that order no call waits for a later
//   one, and calls that do not block the host wait for less.
// - A send waits for the work that is in the compute stream when it is enqueued, and ends when it has been
//   received. The compute stream waits for it only if the sender asks for that (Request::wait); the pipeline
//   does so after its last action.
// - A send that waits for its receiver (Comm::connect_messages, when_ready) is enqueued when the receive has
//   been, so that it waits for nothing, and the receive for work that is done. Its host does that in all its
//   waits for other ranks and for its GPU (progress.h); where a launch could block the host, no rank that the
//   GPU may be waiting for needs the send first (TeacherSender::meet).
// - Another receive is enqueued only after its send has been enqueued by the sender: an envelope, sent by MPI
//   after the send, reports that (messages.cpp), in the same order on both sides. So a pending receive only
//   waits for work that is in the sender's queue already, which in turn waits only for work that was
//   enqueued before. The hosts enqueue in an order that the schedule validator accepts with sends that do
//   not block and receives that do, so all queues drain.
// - Kernels of computation end by themselves; those of communication wait for other GPUs. So all
//   communication kernels that a rank may have pending must be resident on the GPU together: a collective
//   occupies at most kCollectiveBlocks multiprocessors, one for each of four groups (tensor parallel, data
//   parallel, the ends and all stages of the pipeline), a message at most as many as its channel was given.
//   Streams have hardware queues of their own, and kernels are loaded before any communication is pending
//   (device.cpp). The first call on a NCCL communicator connects the ranks and blocks all their hosts: a
//   channel sends a first message when it is created; the first call of a group blocks as in the first
//   argument.
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

NcclId make_nccl_id();  // called by one rank, passed to all ranks of the communicator

class NcclGroup {
 public:
  // Collective: returns when all `size` ranks have called it. own_stream: calls run on a stream of their own;
  // otherwise on the compute stream, without overlap.
  NcclGroup(const NcclId& id, int rank, int size, Device device, bool own_stream);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;

  // As Comm's, for tensors on this rank's GPU, after the work that is in the compute stream now; the tensors
  // must not be accessed until the event. call: description for error messages.
  Event all_reduce(const Tensor& tensor, Reduce op, const std::string& call) const;
  Event reduce_scatter(const Tensor& tensor, const std::string& call) const;
  Event broadcast(const Tensor& tensor, int root, const std::string& call) const;
  Event all_gather(const Tensor& mine, const Tensor& all, const std::string& call) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One end of a channel: the messages from one rank to another.
class NcclChannel {
 public:
  // Called by both ranks; returns when both are connected. blocks: the most thread blocks of a message. call:
  // description for error messages.
  NcclChannel(const NcclId& id, bool sends, Device device, int blocks, const std::string& call);
  ~NcclChannel();
  NcclChannel(const NcclChannel&) = delete;

  int64_t count() const;  // messages that this end has sent or received
  // The tensor must not be written to until the event, which completes when the message has been received.
  Event send(const Tensor& tensor, const std::string& call);
  // ready: event after which the tensor's memory may be written to. The message has arrived when the returned
  // event completes.
  Event receive(const Tensor& tensor, const Event& ready, const std::string& call);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

#else
inline constexpr bool kHasNccl = false;

inline NcclId make_nccl_id() { return {}; }

class NcclGroup {  // a build without NCCL
 public:
  NcclGroup(const NcclId&, int, int, Device, bool) { fail("this build has no NCCL"); }
  Event all_reduce(const Tensor&, Reduce, const std::string&) const { return {}; }
  Event reduce_scatter(const Tensor&, const std::string&) const { return {}; }
  Event broadcast(const Tensor&, int, const std::string&) const { return {}; }
  Event all_gather(const Tensor&, const Tensor&, const std::string&) const { return {}; }
};

class NcclChannel {
 public:
  NcclChannel(const NcclId&, bool, Device, int, const std::string&) { fail("this build has no NCCL"); }
  int64_t count() const { return 0; }
  Event send(const Tensor&, const std::string&) { return {}; }
  Event receive(const Tensor&, const Event&, const std::string&) { return {}; }
};
#endif

}  // namespace wuneng::cuda

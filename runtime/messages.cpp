// Messages between two ranks: Comm's point-to-point calls and their requests.
//
// A message by NCCL (see Comm::connect_messages) has an envelope: an MPI message with its tag, sent after the
// ncclSend has been enqueued on the sender's GPU. The receiver enqueues its ncclRecv when the envelope has
// arrived. So a missing send is detected by the watchdog as it is without NCCL, and the envelope allows
// checks that NCCL lacks: that both sides mean the same message, of the same size.
#include <array>
#include <cstdio>
#include <exception>

#include "runtime/comm_impl.h"
#include "runtime/request.h"
#include "runtime/staged.h"

namespace wuneng {
namespace {

constexpr int64_t kPlainBytes = 1 << 30;  // above this, a message is one item of a derived type
constexpr int64_t kBlockBytes = 1 << 20;

// A message of any length: above 1 GiB one item of a derived type, since MPI counts are int. The basic
// elements are bytes in both cases, so MPI_Get_elements_x gives the number of bytes received.
class LongMessage {
 public:
  LongMessage(int64_t bytes, const std::string& call) {
    if (bytes <= kPlainBytes) {
      count_ = static_cast<int>(bytes);
      return;
    }
    MPI_Datatype block;
    mpi::check(MPI_Type_contiguous(kBlockBytes, MPI_BYTE, &block), call);
    const int counts[] = {static_cast<int>(bytes / kBlockBytes), static_cast<int>(bytes % kBlockBytes)};
    const MPI_Aint at[] = {0, static_cast<MPI_Aint>(bytes / kBlockBytes * kBlockBytes)};
    const MPI_Datatype types[] = {block, MPI_BYTE};
    mpi::check(MPI_Type_create_struct(2, counts, at, types, &type_), call);
    mpi::check(MPI_Type_commit(&type_), call);
    MPI_Type_free(&block);
  }
  ~LongMessage() {  // MPI defers freeing the type until pending messages have ended
    if (type_ != MPI_BYTE) MPI_Type_free(&type_);
  }
  LongMessage(const LongMessage&) = delete;
  int count() const { return count_; }
  MPI_Datatype type() const { return type_; }

 private:
  int count_ = 1;
  MPI_Datatype type_ = MPI_BYTE;
};

}  // namespace

Request::Impl::~Impl() {
  if (!pending_) return;
  if (std::uncaught_exceptions() == 0) {
    std::fprintf(stderr, "wuneng: %s: %s was dropped before it ended\n", rank_name().c_str(), call.c_str());
    Runtime::abort(70);
  }
  new std::array{tensor_,
                 buffer_};  // leaked: MPI or the GPU may still access them; the pending error ends the run
}

namespace {

struct Route {
  int peer, world_rank, tag;  // the peer's rank in `comm`, and in the world
  MPI_Comm comm;
};

// Base of all messages: the MPI message (the body or the envelope), and what remains to be done on a GPU.
class Message : public Request::Impl {
 public:
  Message(const Tensor& tensor, const std::string& call, const Route& route)
      : Impl(tensor, call, {route.world_rank}) {}

 protected:
  // Posts the MPI message: a send of `buffer` or a receive into it.
  void post(bool sends, const Tensor& buffer, const Route& r) {
    const LongMessage body(buffer.bytes(), call);
    buffer_ = buffer;
    receives_ = !sends;
    mpi::check(sends ? MPI_Isend(buffer.raw(), body.count(), body.type(), r.peer, r.tag, r.comm, &request_)
                     : MPI_Irecv(buffer.raw(), body.count(), body.type(), r.peer, r.tag, r.comm, &request_),
               call);
    pending_ = true;
  }
  virtual void received() {}                         // called when the MPI message is in the buffer
  virtual bool finish_on_gpu(bool) { return true; }  // work after the MPI message; returns as complete()

 private:
  bool finish(bool wait) override {
    return (request_ == MPI_REQUEST_NULL || mpi_ended(wait)) && finish_on_gpu(wait);
  }

  bool mpi_ended(bool wait) {
    int flag = 1;
    MPI_Status status;
    const int code = wait ? MPI_Wait(&request_, &status) : MPI_Test(&request_, &flag, &status);
    if (code == MPI_SUCCESS && !flag) return false;
    pending_ = false;  // even if it throws
    int error = MPI_SUCCESS;
    MPI_Error_class(code, &error);
    if (error != MPI_ERR_TRUNCATE) mpi::check(code, call);
    if (!receives_) return true;
    MPI_Count bytes = 0;
    MPI_Get_elements_x(&status, MPI_BYTE, &bytes);
    const int64_t found = bytes, expected = buffer_.bytes();
    require(error != MPI_ERR_TRUNCATE || found > expected, "{}: expected {} bytes, received more", call,
            expected);
    require(found == expected, "{}: expected {} bytes, received {}", call, expected, found);
    received();
    return true;
  }

  MPI_Request request_ = MPI_REQUEST_NULL;
  bool receives_ = false;
};

// Staged through host memory.
class HostMessage : public Message {
 public:
  HostMessage(bool sends, const Tensor& tensor, const std::string& call, const Route& route)
      : Message(tensor, call, route), staged_(tensor, sends, call) {
    post(sends, staged_.host(), route);
  }

 private:
  void received() override { staged_.write_back(); }
  Staged staged_;
};

using Channel = std::shared_ptr<cuda::NcclChannel>;

// number: of messages sent before it on the channel.
Tensor make_envelope(int64_t number, int64_t bytes) { return Tensor::from<int64_t>({number, bytes}, {2}); }

class GpuSend : public Message {
 public:
  GpuSend(const Tensor& tensor, const Channel& channel, const std::string& call, const Route& route)
      : Message(tensor, call, route), channel_(channel) {
    const Tensor envelope = make_envelope(channel->count(), tensor.bytes());
    sent_ = channel->send(tensor, call);
    pending_ = true;
    post(true, envelope, route);
  }

 private:
  // Makes the compute stream wait, so that later work in it may overwrite the tensor.
  bool finish_on_gpu(bool wait) override {
    if (wait) sent_.block(compute_stream(tensor_.device()).handle);
    return wait || sent_.completed();
  }
  Channel channel_;
  cuda::Event sent_;
};

class GpuReceive : public Message {
 public:
  GpuReceive(const Tensor& tensor, const Channel& channel, const std::string& call, const Route& route)
      : Message(tensor, call, route),
        channel_(channel),
        ready_(cuda::Event::record(compute_stream(tensor.device()).handle)),
        envelope_(make_envelope(0, 0)) {
    post(false, envelope_, route);
  }

 private:
  void received() override {
    const int64_t bytes = envelope_.data<int64_t>()[1];
    require(bytes == tensor_.bytes(), "{}: expected {} bytes, received {}", call, tensor_.bytes(), bytes);
  }
  bool finish_on_gpu(bool wait) override {
    if (!started_ && !start(wait)) return false;
    if (wait) arrived_.block(compute_stream(tensor_.device()).handle);
    return wait || arrived_.completed();
  }

  // In the order of the sends, by which alone NCCL matches messages.
  bool start(bool must) {
    const int64_t number = envelope_.data<int64_t>()[0];
    if (!must && number != channel_->count()) return false;
    pending_ = number == channel_->count();
    require(
        pending_,
        "{}: it is message {} from that GPU, but message {} has not been waited for: messages between GPUs "
        "must be waited for in the order in which they were sent",
        call, number, channel_->count());
    arrived_ = channel_->receive(tensor_, ready_, call);
    return started_ = true;
  }

  Channel channel_;
  cuda::Event ready_, arrived_;
  Tensor envelope_;
  bool started_ = false;
};

}  // namespace

bool Request::done() {
  if (!impl_) return true;
  auto mine = std::move(impl_);  // if complete() throws, the request is no longer active
  if (mine->complete(false)) return true;
  impl_ = std::move(mine);
  return false;
}

void Request::wait() {
  if (!impl_) return;
  const auto mine = std::move(impl_);
  const watchdog::Waiting waiting(mine->call, mine->peers);
  mine->complete(true);
}

Request Comm::isend(const Tensor& tensor, int peer, int tag, const char* what) const {
  const CallGuard call(*impl_, Call::message("send", what, tensor, peer, tag));
  if (impl_->dry) return {};
  const Route route = {peer, impl_->world_ranks[peer], tag, impl_->comm};
  Request out;
  if (const auto channel = impl_->channel(impl_->channels_to, tensor, peer))
    out.impl_ = std::make_shared<GpuSend>(tensor, channel, call.text(), route);
  else
    out.impl_ = std::make_shared<HostMessage>(true, tensor, call.text(), route);
  return out;
}

Request Comm::irecv(const Tensor& tensor, int peer, int tag, const char* what) const {
  const CallGuard call(*impl_, Call::message("receive", what, tensor, peer, tag));
  if (impl_->dry) return {};
  const Route route = {peer, impl_->world_ranks[peer], tag, impl_->comm};
  Request out;
  if (const auto channel = impl_->channel(impl_->channels_from, tensor, peer))
    out.impl_ = std::make_shared<GpuReceive>(tensor, channel, call.text(), route);
  else
    out.impl_ = std::make_shared<HostMessage>(false, tensor, call.text(), route);
  return out;
}

void Comm::send(const Tensor& tensor, int peer, int tag, const char* what) const {
  isend(tensor, peer, tag, what).wait();
}
void Comm::recv(const Tensor& tensor, int peer, int tag, const char* what) const {
  irecv(tensor, peer, tag, what).wait();
}

}  // namespace wuneng

// Messages between two ranks: Comm's point-to-point calls and their requests.
//
// A message by NCCL (see Comm::connect_messages) has an envelope: an MPI message with its tag, sent after the
// ncclSend has been enqueued on the sender's GPU or, where sends wait for their receivers, before. The
// receiver enqueues its ncclRecv when the envelope has arrived. So a missing send is detected by the watchdog
// as it is without NCCL, and the envelope allows checks that NCCL lacks: that both sides mean the same
// message, of the same size.
#include <array>
#include <cstdio>
#include <exception>
#include <thread>

#include "runtime/comm_impl.h"
#include "runtime/progress.h"
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
    const int code = wait ? mpi::wait(request_, &status) : MPI_Test(&request_, &flag, &status);
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

using Way = std::shared_ptr<MessageWay>;

// number: of messages sent before it on the way.
Tensor make_envelope(int64_t number, int64_t bytes) { return Tensor::from<int64_t>({number, bytes}, {2}); }

class GpuSend : public Message {
 public:
  GpuSend(const Tensor& tensor, const Way& way, const std::string& call, const Route& route)
      : Message(tensor, call, route) {
    const Tensor envelope = make_envelope(way->channel->count(), tensor.bytes());
    sent_ = way->channel->send(tensor, call);
    pending_ = true;
    post(true, envelope, route);
  }

 private:
  // Makes the compute stream wait, so that later work in it may overwrite the tensor.
  bool finish_on_gpu(bool wait) override {
    if (wait) sent_.block(compute_stream(tensor_.device()).handle);
    return wait || sent_.completed();
  }
  cuda::Event sent_;
};

// A send that begins when the receiver is ready. Its envelope goes when the tensor has been computed; the
// receiver enqueues its receive then and answers, and the send is enqueued. So the receive waits on its GPU
// for the time of an answer, and the send not at all.
class ReadySend : public Request::Impl {
 public:
  ReadySend(const Tensor& tensor, const Way& way, const std::string& call, const Route& route)
      : Impl(tensor, call, {route.world_rank}),
        way_(way),
        route_(route),
        number_(way->messages++),
        computed_(cuda::Event::record(compute_stream(tensor.device()).handle)) {
    buffer_ = make_envelope(number_, tensor.bytes());
    mpi::check(MPI_Irecv(nullptr, 0, MPI_BYTE, route.peer, 0, way->ready, &ready_), call);
    pending_ = true;
    progress_ = progress::add([this] { advance(); });
  }
  ~ReadySend() override { progress::remove(progress_); }

 private:
  // In the order of the messages on this way.
  void advance() {
    if (!announced_ && number_ == way_->envelopes && computed_.completed()) {
      mpi::check(MPI_Isend(buffer_.raw(), static_cast<int>(buffer_.bytes()), MPI_BYTE, route_.peer,
                           route_.tag, route_.comm, &envelope_),
                 call);
      announced_ = true;
      ++way_->envelopes;
    }
    if (!announced_ || begun_ || number_ != way_->channel->count()) return;
    int is_ready = 0;
    mpi::check(MPI_Test(&ready_, &is_ready, MPI_STATUS_IGNORE), call);
    if (!is_ready) return;
    sent_ = way_->channel->send(tensor_, call);
    begun_ = true;
  }

  bool finish(bool wait) override {
    advance();
    while (wait && !begun_) {
      progress::make();
      std::this_thread::yield();
    }
    if (!begun_) return false;
    mpi::check(mpi::wait(envelope_), call);  // which the receiver has answered
    if (wait) sent_.block(compute_stream(tensor_.device()).handle);
    return wait || sent_.completed();
  }

  Way way_;
  Route route_;
  int64_t number_;
  cuda::Event computed_, sent_;
  MPI_Request ready_ = MPI_REQUEST_NULL, envelope_ = MPI_REQUEST_NULL;
  bool announced_ = false, begun_ = false;
  int progress_ = 0;
};

class GpuReceive : public Message {
 public:
  GpuReceive(const Tensor& tensor, const Way& way, const std::string& call, const Route& route)
      : Message(tensor, call, route),
        way_(way),
        peer_(route.peer),
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
    const int64_t number = envelope_.data<int64_t>()[0], count = way_->channel->count();
    if (!must && number != count) return false;
    pending_ = number == count;
    require(
        pending_,
        "{}: it is message {} from that GPU, but message {} has not been waited for: messages between GPUs "
        "must be waited for in the order in which they were sent",
        call, number, count);
    arrived_ = way_->channel->receive(tensor_, ready_, call);
    if (way_->ready != MPI_COMM_NULL) {
      MPI_Request answer;
      mpi::check(MPI_Isend(nullptr, 0, MPI_BYTE, peer_, 0, way_->ready, &answer), call);
      MPI_Request_free(&answer);
    }
    return started_ = true;
  }

  Way way_;
  int peer_;
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
  const Way way = impl_->way(impl_->ways_to, tensor, peer);
  if (way && way->ready != MPI_COMM_NULL)
    out.impl_ = std::make_shared<ReadySend>(tensor, way, call.text(), route);
  else if (way)
    out.impl_ = std::make_shared<GpuSend>(tensor, way, call.text(), route);
  else
    out.impl_ = std::make_shared<HostMessage>(true, tensor, call.text(), route);
  return out;
}

Request Comm::irecv(const Tensor& tensor, int peer, int tag, const char* what) const {
  const CallGuard call(*impl_, Call::message("receive", what, tensor, peer, tag));
  if (impl_->dry) return {};
  const Route route = {peer, impl_->world_ranks[peer], tag, impl_->comm};
  Request out;
  if (const Way way = impl_->way(impl_->ways_from, tensor, peer))
    out.impl_ = std::make_shared<GpuReceive>(tensor, way, call.text(), route);
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

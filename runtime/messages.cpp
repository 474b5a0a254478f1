// Messages between two ranks: Comm's point to point calls and the requests that they give out.
//
// A message that goes by NCCL (see Comm::connect_messages) has a notice: an MPI message with its tag, sent
// when the message itself is in the queue of the sender's GPU. The receiver puts its receive into its own
// GPU's queue when the notice has come. So a rank that never sends is named as it is without NCCL, and what
// NCCL does not check is checked here: that both sides mean the same message, of the same size.
#include <array>
#include <cstdio>
#include <exception>

#include "runtime/comm_impl.h"
#include "runtime/request.h"
#include "runtime/staged.h"

namespace wuneng {
namespace {

constexpr int64_t kPlainBytes = 1 << 30;  // above this a message is counted in blocks, not in bytes
constexpr int64_t kBlockBytes = 1 << 20;

// A message of any length: above 1 GiB one item of a derived type, since MPI counts with int. Its elements
// are bytes either way, so what arrives is counted alike.
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
  ~LongMessage() {  // MPI keeps the type while a message under way needs it
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
  if (!owes_) return;
  if (std::uncaught_exceptions() == 0) {
    std::fprintf(stderr, "wuneng: %s: %s was dropped before it ended\n", rank_name().c_str(), call.c_str());
    Runtime::abort(70);
  }
  new std::array{tensor_, buffer_};  // somebody may still write there; the error on its way ends the run
}

namespace {

// MPI's part of a message, and by NCCL what the GPUs do.
class Message : public Request::Impl {
 public:
  using Impl::Impl;

 protected:
  // MPI's part: of a send, or of a receive into `buffer`.
  void post(bool sends, const Tensor& buffer, int peer, int tag, MPI_Comm comm) {
    const LongMessage body(buffer.bytes(), call);
    buffer_ = buffer;
    receives_ = !sends;
    mpi::check(sends ? MPI_Isend(buffer.raw(), body.count(), body.type(), peer, tag, comm, &request_)
                     : MPI_Irecv(buffer.raw(), body.count(), body.type(), peer, tag, comm, &request_),
               call);
    owes_ = true;
  }
  virtual void received() {}                         // what MPI received is in the buffer
  virtual bool finish_on_gpu(bool) { return true; }  // what is owed beyond MPI's part; as ended()

 private:
  bool finish(bool wait) override {
    return (request_ == MPI_REQUEST_NULL || mpi_ended(wait)) && finish_on_gpu(wait);
  }

  bool mpi_ended(bool wait) {
    int flag = 1;
    MPI_Status status;
    const int code = wait ? MPI_Wait(&request_, &status) : MPI_Test(&request_, &flag, &status);
    if (code == MPI_SUCCESS && !flag) return false;
    owes_ = false;  // also where it throws
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

// Through the host.
class HostMessage : public Message {
 public:
  HostMessage(bool sends, const Tensor& tensor, const std::string& call, int peer, int tag, MPI_Comm comm)
      : Message(tensor, call), staged_(tensor, sends, call) {
    post(sends, staged_.host(), peer, tag, comm);
  }

 private:
  void received() override { staged_.write_back(); }
  Staged staged_;
};

using Way = std::shared_ptr<cuda::NcclWay>;

// number: of messages before it from that rank.
Tensor make_notice(int64_t number, int64_t bytes) { return Tensor::from<int64_t>({number, bytes}, {2}); }

class GpuSend : public Message {
 public:
  GpuSend(const Tensor& tensor, const Way& way, const std::string& call, int peer, int tag, MPI_Comm comm)
      : Message(tensor, call), way_(way) {
    const Tensor notice = make_notice(way->count(), tensor.bytes());
    sent_ = way->send(tensor, call);
    owes_ = true;
    post(true, notice, peer, tag, comm);
  }

 private:
  // Who waits has the compute stream wait: the tensor may be written to in that stream's order.
  bool finish_on_gpu(bool wait) override {
    if (wait) sent_.hold(compute_stream(tensor_.device()).handle);
    return wait || sent_.passed();
  }
  Way way_;
  cuda::Event sent_;
};

class GpuReceive : public Message {
 public:
  GpuReceive(const Tensor& tensor, const Way& way, const std::string& call, int peer, int tag, MPI_Comm comm)
      : Message(tensor, call),
        way_(way),
        ready_(cuda::Event::after(compute_stream(tensor.device()).handle)),
        notice_(make_notice(0, 0)) {
    post(false, notice_, peer, tag, comm);
  }

 private:
  void received() override {
    const int64_t bytes = notice_.data<int64_t>()[1];
    require(bytes == tensor_.bytes(), "{}: expected {} bytes, received {}", call, tensor_.bytes(), bytes);
  }
  bool finish_on_gpu(bool wait) override {
    if (!started_ && !start(wait)) return false;
    if (wait) there_.hold(compute_stream(tensor_.device()).handle);
    return wait || there_.passed();
  }

  // In the order of the sends: NCCL knows messages by nothing else.
  bool start(bool must) {
    const int64_t number = notice_.data<int64_t>()[0];
    if (!must && number != way_->count()) return false;
    owes_ = number == way_->count();
    require(
        owes_,
        "{}: it is message {} from that GPU and message {} has not been waited for: messages between GPUs "
        "are waited for in the order in which they were sent",
        call, number, way_->count());
    there_ = way_->receive(tensor_, ready_, call);
    return started_ = true;
  }

  Way way_;
  cuda::Event ready_, there_;
  Tensor notice_;
  bool started_ = false;
};

}  // namespace

bool Request::done() {
  if (!impl_) return true;
  auto mine = std::move(impl_);  // and where it throws, nothing is under way any more
  if (mine->ended(false)) return true;
  impl_ = std::move(mine);
  return false;
}

void Request::wait() {
  if (!impl_) return;
  const auto mine = std::move(impl_);
  const watchdog::Waiting waiting(mine->call);
  mine->ended(true);
}

Request Comm::isend(const Tensor& tensor, int peer, int tag, const char* what) const {
  const Gate call(*impl_, Call::message("send", what, tensor, peer, tag));
  Request out;
  if (const auto way = impl_->way(impl_->ways_to, tensor, peer))
    out.impl_ = std::make_shared<GpuSend>(tensor, way, call.text(), peer, tag, impl_->comm);
  else
    out.impl_ = std::make_shared<HostMessage>(true, tensor, call.text(), peer, tag, impl_->comm);
  return out;
}

Request Comm::irecv(const Tensor& tensor, int peer, int tag, const char* what) const {
  const Gate call(*impl_, Call::message("receive", what, tensor, peer, tag));
  Request out;
  if (const auto way = impl_->way(impl_->ways_from, tensor, peer))
    out.impl_ = std::make_shared<GpuReceive>(tensor, way, call.text(), peer, tag, impl_->comm);
  else
    out.impl_ = std::make_shared<HostMessage>(false, tensor, call.text(), peer, tag, impl_->comm);
  return out;
}

void Comm::send(const Tensor& tensor, int peer, int tag, const char* what) const {
  isend(tensor, peer, tag, what).wait();
}
void Comm::recv(const Tensor& tensor, int peer, int tag, const char* what) const {
  irecv(tensor, peer, tag, what).wait();
}

}  // namespace wuneng

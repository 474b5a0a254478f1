// Messages between two ranks: Comm's point to point calls and the requests that they give out.
#include <cstdio>
#include <exception>

#include "runtime/comm_impl.h"
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

struct Request::Impl {
  MPI_Request request = MPI_REQUEST_NULL;
  Staged buffer;
  std::string call;
  int64_t expected = -1;  // bytes, of a receive

  Impl(const Tensor& tensor, const std::string& text, bool sends) : buffer(tensor, sends, text), call(text) {}
  Impl(const Impl&) = delete;

  void finish(int code, const MPI_Status& status) const {
    int error = MPI_SUCCESS;
    MPI_Error_class(code, &error);
    if (error != MPI_ERR_TRUNCATE) mpi::check(code, call);
    if (expected < 0) return;
    MPI_Count bytes = 0;
    MPI_Get_elements_x(&status, MPI_BYTE, &bytes);
    const int64_t found = bytes;
    require(error != MPI_ERR_TRUNCATE || found > expected, "{}: expected {} bytes, received more", call,
            expected);
    require(found == expected, "{}: expected {} bytes, received {}", call, expected, found);
    buffer.write_back();
  }

  ~Impl() {
    if (request == MPI_REQUEST_NULL) return;
    if (std::uncaught_exceptions() == 0) {
      std::fprintf(stderr, "wuneng: %s: %s was dropped before it ended\n", rank_name().c_str(), call.c_str());
      Runtime::abort(70);
    }
    new Tensor(buffer.host());  // MPI may still write there; the error on its way ends the run
  }
};

bool Request::done() {
  if (!impl_) return true;
  int flag = 0;
  MPI_Status status;
  const int code = MPI_Test(&impl_->request, &flag, &status);
  if (code == MPI_SUCCESS && !flag) return false;
  const auto ended = std::move(impl_);
  ended->finish(code, status);
  return true;
}

void Request::wait() {
  if (!impl_) return;
  const auto ended = std::move(impl_);
  watchdog::Waiting waiting(ended->call);
  MPI_Status status;
  const int code = MPI_Wait(&ended->request, &status);
  ended->finish(code, status);
}

Request Comm::isend(const Tensor& tensor, int peer, int tag, const char* what) const {
  const Gate call(*impl_, Call::message("send", what, tensor, peer, tag));
  Request out;
  out.impl_ = std::make_shared<Request::Impl>(tensor, call.text(), true);
  MPI_Request* request = &out.impl_->request;
  const LongMessage body(tensor.bytes(), call.text());
  call(MPI_Isend(out.impl_->buffer.host().raw(), body.count(), body.type(), peer, tag, impl_->comm, request));
  return out;
}

Request Comm::irecv(const Tensor& tensor, int peer, int tag, const char* what) const {
  const Gate call(*impl_, Call::message("receive", what, tensor, peer, tag));
  Request out;
  out.impl_ = std::make_shared<Request::Impl>(tensor, call.text(), false);
  out.impl_->expected = tensor.bytes();
  MPI_Request* request = &out.impl_->request;
  const LongMessage body(tensor.bytes(), call.text());
  call(MPI_Irecv(out.impl_->buffer.host().raw(), body.count(), body.type(), peer, tag, impl_->comm, request));
  return out;
}

void Comm::send(const Tensor& tensor, int peer, int tag, const char* what) const {
  isend(tensor, peer, tag, what).wait();
}
void Comm::recv(const Tensor& tensor, int peer, int tag, const char* what) const {
  irecv(tensor, peer, tag, what).wait();
}

}  // namespace wuneng

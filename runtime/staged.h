// Staged: a tensor in memory that the host and MPI can access: a host tensor itself, for a GPU tensor a copy
// in pinned memory.
#pragma once
#include <memory>
#include <string>

#include "runtime/tensor.h"

namespace wuneng {

class Staged {
 public:
  // filled: copies the tensor's content, for which the host waits for the GPU (`call` names the wait);
  // otherwise the copy is uninitialised.
  Staged(const Tensor& tensor, bool filled, const std::string& call) : device_(tensor), host_(tensor) {
    if (tensor.device().kind == DeviceKind::cpu || tensor.bytes() == 0) return;
    block_ = std::make_shared<PinnedBuffer>(tensor.device(), tensor.bytes());
    host_ = Tensor::wrap(block_->data(), tensor.shape(), tensor.dtype(), block_);
    if (!filled) return;
    block_->copy_from_gpu(tensor.raw());
    block_->wait(call);
  }
  const Tensor& host() const { return host_; }
  // Copies the host copy back to the GPU, asynchronously in the compute stream. The host copy must not be
  // written to afterwards.
  void write_back() const {
    if (block_) block_->copy_to_gpu(device_.raw());
  }

 private:
  Tensor device_, host_;
  std::shared_ptr<PinnedBuffer> block_;
};

}  // namespace wuneng

// Staged: a tensor in memory that the host and MPI can access: a host tensor itself, for a GPU tensor a copy
// in pinned memory, or in other host memory where pinned memory was reserved and has no room for it.
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
    if (!block_->data()) {
      block_.reset();
      host_ = filled ? tensor.to(Device{}) : Tensor::empty(tensor.shape(), tensor.dtype());
      return;
    }
    host_ = Tensor::wrap(block_->data(), tensor.shape(), tensor.dtype(), block_);
    if (!filled) return;
    block_->copy_from_gpu(tensor.raw());
    block_->wait(call);
  }
  const Tensor& host() const { return host_; }
  // Copies the host copy back to the GPU in the compute stream, asynchronously if it is pinned. The host copy
  // must not be written to afterwards.
  void write_back() const {
    if (block_)
      block_->copy_to_gpu(device_.raw());
    else if (device_.device().kind == DeviceKind::cuda && device_.bytes() > 0)
      copy_bytes(device_.raw(), device_.device(), host_.raw(), Device{}, device_.bytes());
  }

 private:
  Tensor device_, host_;
  std::shared_ptr<PinnedBuffer> block_;
};

}  // namespace wuneng

// Staged: a tensor where MPI and the host can read and write it: a host tensor itself, a GPU's tensor as a
// copy in page-locked memory.
#pragma once
#include <memory>
#include <string>

#include "runtime/tensor.h"

namespace wuneng {

class Staged {
 public:
  // filled: what the tensor holds is read, so the host waits for the GPU (named by `call`); else the copy is
  // only written to.
  Staged(const Tensor& tensor, bool filled, const std::string& call) : there_(tensor), host_(tensor) {
    if (tensor.device().kind == DeviceKind::cpu || tensor.bytes() == 0) return;
    block_ = std::make_shared<LockedBlock>(tensor.device(), tensor.bytes());
    host_ = Tensor::wrap(block_->data(), tensor.shape(), tensor.dtype(), block_);
    if (!filled) return;
    block_->copy_from_gpu(tensor.raw());
    block_->wait(call);
  }
  const Tensor& host() const { return host_; }
  // The host's copy to the GPU, in the compute stream's order; returns at once. The copy must not be written
  // to afterwards.
  void write_back() const {
    if (block_) block_->copy_to_gpu(there_.raw());
  }

 private:
  Tensor there_, host_;
  std::shared_ptr<LockedBlock> block_;
};

}  // namespace wuneng

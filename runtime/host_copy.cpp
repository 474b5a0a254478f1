#include "runtime/host_copy.h"

namespace wuneng {

HostCopy::HostCopy(const Tensor& tensor) {
  if (tensor.device() == Device{}) {
    host_ = tensor.clone();
    return;
  }
  if (tensor.device().dry || tensor.bytes() == 0) {
    host_ = tensor.to(Device{});
    return;
  }
  pinned_ = std::make_shared<PinnedBuffer>(tensor.device(), tensor.bytes());
  if (!pinned_->data()) {  // no room in what was reserved
    pinned_.reset();
    host_ = tensor.to(Device{});
    return;
  }
  host_ = Tensor::wrap(pinned_->data(), tensor.shape(), tensor.dtype(), pinned_);
  pinned_->copy_from_gpu(tensor.raw());
}

const Tensor& HostCopy::read(const std::string& call) const {
  if (pinned_) pinned_->wait(call);
  return host_;
}

}  // namespace wuneng

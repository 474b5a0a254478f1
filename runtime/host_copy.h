// A copy in host memory of what is on a GPU, which the host reads later: work that was queued meanwhile does
// not wait for the host.
#pragma once
#include <memory>
#include <string>

#include "runtime/tensor.h"

namespace wuneng {

class HostCopy {
 public:
  HostCopy() = default;
  // Of a tensor as it is after what is in the compute stream now. On the host a clone.
  explicit HostCopy(const Tensor& tensor);
  // Waits for the GPU up to there. call: description for the hang report.
  const Tensor& read(const std::string& call) const;

 private:
  std::shared_ptr<PinnedBuffer> pinned_;  // null: the copy is there
  Tensor host_;
};

}  // namespace wuneng

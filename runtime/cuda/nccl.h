// Collectives among GPUs: an NCCL communicator for a group of ranks that have a GPU each. Calls are put into
// the compute stream's order and return at once; who waits for the GPU (device.cpp) looks after errors.
#pragma once
#include <array>
#include <memory>
#include <string>

#include "runtime/comm.h"

namespace wuneng::cuda {

using NcclId = std::array<char, 128>;

#ifdef WUNENG_WITH_NCCL
inline constexpr bool kHasNccl = true;

class NcclGroup {
 public:
  static NcclId make_id();  // by one rank, for all
  // Collective: returns when all `size` ranks have come.
  NcclGroup(const NcclId& id, int rank, int size, Device device);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;

  // As Comm's, for tensors on this rank's GPU. call: its description, for messages.
  void all_reduce(const Tensor& tensor, Reduce op, const std::string& call) const;
  void broadcast(const Tensor& tensor, int root, const std::string& call) const;
  void all_gather(const Tensor& mine, const Tensor& all, const std::string& call) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

#else
inline constexpr bool kHasNccl = false;

class NcclGroup {  // there is none
 public:
  static NcclId make_id() { return {}; }
  NcclGroup(const NcclId&, int, int, Device) { fail("this build has no NCCL"); }
  void all_reduce(const Tensor&, Reduce, const std::string&) const {}
  void broadcast(const Tensor&, int, const std::string&) const {}
  void all_gather(const Tensor&, const Tensor&, const std::string&) const {}
};
#endif

}  // namespace wuneng::cuda

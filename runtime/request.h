// Request::Impl: the base class of pending operations. messages.cpp derives sends and receives, comm.cpp
// all-reduces.
#pragma once
#include <string>
#include <vector>

#include "runtime/comm.h"

namespace wuneng {

struct Request::Impl {
  const std::string call;
  const std::vector<int> peers;  // world ranks that it needs, with this one in a collective call

  Impl(const Tensor& tensor, std::string text, std::vector<int> needed)
      : call(std::move(text)), peers(std::move(needed)), tensor_(tensor) {}
  Impl(const Impl&) = delete;
  virtual ~Impl();

  // Whether the operation has ended.
  bool complete(bool wait) {  // wait: blocks until then and returns true
    if (pending_) pending_ = !finish(wait);
    return !pending_;
  }

 protected:
  virtual bool finish(bool wait) = 0;  // as complete()

  Tensor tensor_, buffer_;  // read or written until it has ended
  bool pending_ = false;    // has not ended
};

}  // namespace wuneng

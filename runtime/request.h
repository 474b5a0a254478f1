// Request::Impl: an operation under way, as its Request sees it. messages.cpp has those of messages, comm.cpp
// those of sums.
#pragma once
#include <string>

#include "runtime/comm.h"

namespace wuneng {

struct Request::Impl {
  const std::string call;

  Impl(const Tensor& tensor, std::string text) : call(std::move(text)), tensor_(tensor) {}
  Impl(const Impl&) = delete;
  virtual ~Impl();

  bool ended(bool wait) {  // wait: returns true alone
    if (owes_) owes_ = !finish(wait);
    return !owes_;
  }

 protected:
  virtual bool finish(bool wait) = 0;  // as ended()

  Tensor tensor_, buffer_;  // what is read or written meanwhile
  bool owes_ = false;       // there is something to be waited for
};

}  // namespace wuneng

// Observer: sees values that a model names (Tape::name), as they are made, and their gradients.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "runtime/tensor.h"

namespace wuneng {

class Observer {
 public:
  virtual ~Observer() = default;
  // A value that has just been computed. It may change the elements: what follows computes with them.
  virtual void value(const std::string& name, const Tensor& value) = 0;
  // The whole gradient of that value. Returns what the backward pass goes on with: `gradient`, or another
  // tensor of its shape and type.
  virtual Tensor gradient(const std::string& name, const Tensor& gradient) = 0;
};

// Makes the observer of a micro-batch of a step; empty: none is observed. Micro-batches are numbered over
// all replicas: micro-batch m of replica r of dp is m dp + r.
using Observers = std::function<std::shared_ptr<Observer>(int64_t micro_batch)>;

}  // namespace wuneng

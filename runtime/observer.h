// Observer: sees values that a model names (Tape::name), as they are made, and their gradients.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "runtime/tensor.h"

namespace wuneng {

// A named value: a whole tensor, or a rank's rows of one, from first_row on.
struct ObservedName {
  std::string text;
  int64_t first_row = 0;
};

class Observer {
 public:
  virtual ~Observer() = default;
  // A value that has just been computed. It may change the elements: what follows computes with them.
  virtual void value(const ObservedName& name, const Tensor& value) = 0;
  // The whole gradient of that value. Returns what the backward pass goes on with: `gradient`, or, of a whole
  // tensor, another one of its shape and type.
  virtual Tensor gradient(const ObservedName& name, const Tensor& gradient) = 0;
};

// Makes the observer of a micro-batch of a step; empty: none is observed. Micro-batches are numbered over
// all replicas: micro-batch m of replica r of dp is m dp + r.
using Observers = std::function<std::shared_ptr<Observer>(int64_t micro_batch)>;

}  // namespace wuneng

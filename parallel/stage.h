// Stage: what a pipeline rank runs, and all that parallel/ needs to know of a model.
#pragma once
#include <functional>

#include "parallel/parameter.h"
#include "runtime/micro_batch.h"

namespace wuneng {

// A range of layers on one rank. `hidden` is undefined on the first stage, which embeds batch.tokens.
class Stage {
 public:
  virtual ~Stage() = default;
  virtual Parameters parameters() = 0;
  virtual int64_t hidden_size() const = 0;
  // Returns the hidden state [T, d] after this stage's layers (on the last stage: after the final norm).
  // completed: called backwards, layer by layer, with the first of parameters(); its gradient and those of
  // all behind it are complete.
  using Completed = std::function<void(const Parameter* first)>;
  virtual Var forward(Tape& tape, const MicroBatch& batch, const Var& hidden,
                      const Completed& completed = {}) = 0;
};

}  // namespace wuneng

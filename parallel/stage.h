// Stage: what a pipeline rank runs, and all that parallel/ needs to know of a model.
#pragma once
#include <functional>

#include "parallel/parameter.h"

namespace wuneng {

// One micro-batch as every rank of a replica sees it: T rows of packed documents.
struct MicroBatch {
  Tensor tokens;                   // [T] i32
  Tensor labels;                   // [T] i32: the next token, negative where none counts
  std::vector<int64_t> documents;  // first row of each document, then T: [0, 512, 700, 1024]
  int64_t rows() const { return tokens.dim(0); }
};

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

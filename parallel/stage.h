// Stage: what a pipeline rank runs, and all that parallel/ needs to know of a model.
#pragma once
#include <functional>
#include <map>
#include <string>

#include "parallel/parameter.h"
#include "runtime/micro_batch.h"

namespace wuneng {

// What passes from layer to layer and from stage to stage.
using CarriedVars = std::map<std::string, Var>;  // by name
struct StageState {
  Var hidden;           // [R, d]: Stage::hidden_rows
  CarriedVars carried;  // what a layer leaves for later ones in addition, [T, width] each
};
struct CarriedTensor {
  std::string name;
  int64_t width;
};

// A range of layers on one rank.
class Stage {
 public:
  virtual ~Stage() = default;
  virtual Parameters parameters() = 0;
  virtual int64_t hidden_size() const = 0;
  // R of the hidden state that passes between stages, of a micro-batch of T rows: T, or a share of them.
  virtual int64_t hidden_rows(int64_t rows) const { return rows; }
  // What a stage before this one has left, and what this one hands on in addition to the hidden state.
  virtual std::vector<CarriedTensor> carried_in() const { return {}; }
  virtual std::vector<CarriedTensor> carried_out() const { return {}; }
  // in.hidden is undefined on the first stage, which embeds batch.tokens. Returns the state after this
  // stage's layers (on the last stage: the hidden state after the final norm). completed: called backwards,
  // layer by layer, with the first of parameters(); its gradient and those of all behind it are complete.
  using Completed = std::function<void(const Parameter* first)>;
  virtual StageState forward(Tape& tape, const MicroBatch& batch, const StageState& in,
                             const Completed& completed = {}) = 0;
};

}  // namespace wuneng

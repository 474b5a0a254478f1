// Weight gradients of operators that are applied several times with the same weights, such as those of a
// layer's chunk steps: one product over all their rows in place of one each.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "parallel/parameter.h"
#include "runtime/tape.h"

namespace wuneng::ops {

class JointGradients {
 public:
  // Takes its place on the tape, before the operators that leave something here: backward, what they have
  // left becomes gradients when the last of them has. Null where the tape does not record.
  static std::shared_ptr<JointGradients> begin(Tape& tape);
  // Of y[t, h] = W_h x[t, h], backward: dy [T, H, O] and x [T, H, I], with W [H, O, I].
  void leave(const Parameter* weight, const Tensor& dy, const Tensor& x);

 private:
  struct Factors {
    std::vector<Tensor> dy, x;  // by application, the last one first
  };
  void form(const Stream& stream);

  Var place_;
  std::vector<const Parameter*> order_;
  std::map<const Parameter*, Factors> left_;
};
using JointGradientsPtr = std::shared_ptr<JointGradients>;

}  // namespace wuneng::ops

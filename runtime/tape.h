// Tape: records operators for reverse-mode differentiation.
//
// An operator computes its value with kernels, then records itself: one closure for the gradient of its
// inputs and, if it has weights, one for the gradient of its weights, so that the two halves of the backward
// pass may run at different times (backward_inputs first, backward_weights later).
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "runtime/gradient.h"

namespace wuneng {

// A value on the tape and its gradient. Copies share both.
class Var {
 public:
  Var() = default;
  explicit Var(Tensor value, bool needs_grad = false) : Var(value, needs_grad, value.dtype()) {}
  // With a gradient of another type: f32 for a bf16 parameter, whose gradient accumulates over micro-batches.
  Var(Tensor value, bool needs_grad, DType gradient)
      : node_(std::make_shared<Node>(Node{std::move(value), {}, needs_grad, gradient})) {}

  bool defined() const { return node_ != nullptr; }
  bool same(const Var& other) const { return node_ == other.node_; }
  const Tensor& value() const { return node_->value; }
  const Shape& shape() const { return node_->value.shape(); }
  int64_t dim(int i) const { return node_->value.dim(i); }
  bool needs_grad() const { return node_ && node_->needs_grad; }

  bool has_grad() const { return node_->grad.defined(); }
  const Tensor& grad() const { return node_->grad; }
  void set_grad(Tensor grad) const;
  void drop_grad() const { node_->grad = {}; }
  // An uninitialised tensor for the gradient or a part of it. For a slice (see rows) without a gradient it is
  // always the same memory, inside the gradient of the whole.
  Tensor fresh_grad() const;
  // The gradient buffer to accumulate into, zero at first. For leaves, whose gradient is not shared.
  const Tensor& grad_buffer() const;
  // The destination for the next contribution to the gradient; call once per kernel. If other Vars share the
  // present gradient tensor, the sum is written to a new one.
  Gradient gradient() const;
  // Accumulates; without a gradient so far it keeps a reference to `grad`, not a copy (see gradient()).
  void add_grad(const Tensor& grad) const;

  // A slice: rows [begin, end) of the value; its gradient is a slice of this Var's gradient, which is
  // complete when every slice has one.
  Var rows(int64_t begin, int64_t end) const;

 private:
  struct Node {
    Tensor value, grad;
    bool needs_grad;
    DType gradient;
    std::shared_ptr<Node> whole = {};  // of a slice ...
    int64_t first_row = 0;             // ... and its first row
  };
  static Tensor fresh_grad(Node& node);
  std::shared_ptr<Node> node_;
};

// An uninitialised tensor of v's type on its device, with its shape or another.
inline Tensor like(const Var& v, Shape shape) {
  return Tensor::empty(std::move(shape), v.value().dtype(), v.value().device());
}
inline Tensor like(const Var& v) { return like(v, v.shape()); }

class Tape {
 public:
  explicit Tape(Stream stream = {}, bool recording = true) : stream_(stream), recording_(recording) {}

  const Stream& stream() const { return stream_; }
  bool recording() const { return recording_; }
  // Does an output of an operator on these inputs need a gradient?
  template <class... Vars>
  bool wants(const Vars&... vars) const {
    return recording_ && (... || vars.needs_grad());
  }
  Var output(Tensor value, bool needs_grad) const { return Var(std::move(value), needs_grad && recording_); }

  // Records an operator with the result `out`. In the backward pass it is skipped if `out` has no gradient;
  // otherwise input_gradient runs when out.grad() is complete. weight_gradient may run later and may be
  // empty. out's gradient is freed after both.
  void record(const Var& out, std::function<void()> input_gradient,
              std::function<void()> weight_gradient = {});

  // Records an operator whose input gradient is an all-reduce over ranks: begin() starts it, weight gradients
  // of operators that were recorded after it run in the meantime, and end() waits for it and accumulates the
  // result.
  void record_sum(const Var& out, std::function<void()> begin, std::function<void()> end);

  // In the backward pass `function` runs as soon as all gradients, including weight gradients, of operators
  // recorded after it are complete.
  void mark(std::function<void()> function);

  // Runs the backward pass from the gradients set on outputs (Var::set_grad). The tape is empty afterwards.
  void backward();
  // The same in two halves. backward_weights runs the weight gradients that backward_inputs deferred, in that
  // order.
  void backward_inputs();
  void backward_weights();

 private:
  struct Step {
    Var out;  // undefined: a mark, whose function is weight_gradient
    std::function<void()> input_gradient, weight_gradient;
    std::function<void()> end;  // of an all-reduce that input_gradient has started

    bool mark() const { return !out.defined(); }
    void form_weight_gradient() const;
  };
  Step take_last();
  Stream stream_;
  bool recording_;
  std::vector<Step> steps_;
  int sums_ = 0;               // number of record_sum steps
  std::vector<Step> waiting_;  // deferred weight gradients
};

// Activation checkpointing: runs `function` without recording and keeps only its inputs; the backward pass
// runs it again with recording and differentiates it. `function` must compute the same result both times and
// use no Var with needs_grad except `inputs` and parameters (leaves).
using Recomputed = std::function<Var(Tape&, const std::vector<Var>& inputs)>;
Var recompute(Tape& tape, const std::vector<Var>& inputs, const Recomputed& function);

}  // namespace wuneng

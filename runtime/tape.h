// Tape: records operators for reverse-mode differentiation.
//
// An operator computes its value with kernels, then records itself: one closure for the gradient of its
// inputs and, where it has weights, one for the gradient of its weights. The two are apart so that a schedule
// may run them at different times (backward_inputs now, backward_weights later: B and W of the zero-bubble
// papers, arXiv 2401.10241).
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "runtime/gradient.h"
#include "runtime/observer.h"

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
    std::shared_ptr<Node> whole = {};               // of a slice ...
    int64_t first_row = 0;                          // ... and its first row
    std::shared_ptr<const ObservedName> name = {};  // of an observed value ...
    int64_t observed_rows = 0;                      // ... and those of its rows that are no padding
  };
  static Tensor fresh_grad(Node& node);
  friend class Tape;
  std::shared_ptr<Node> node_;
};

// An uninitialised tensor of v's type on its device, with its shape or another.
inline Tensor like(const Var& v, Shape shape) {
  return Tensor::empty(std::move(shape), v.value().dtype(), v.value().device());
}
inline Tensor like(const Var& v) { return like(v, v.shape()); }

class Tape {
 public:
  explicit Tape(Stream stream = {}, bool recording = true)
      : stream_(stream), recording_(recording), by_row_(!recording) {}

  const Stream& stream() const { return stream_; }
  bool recording() const { return recording_; }
  // Are products of few rows computed each row by itself, as generation needs it? Not where a result must be
  // to the bit that of a tape that records.
  bool by_row() const { return by_row_; }
  // One that does not record, of the same stream and observer, with the results of this one.
  Tape silent() const {
    Tape out(stream_, false);
    out.by_row_ = by_row_;
    out.observer_ = observer_;
    return out;
  }
  // Does an output of an operator on these inputs need a gradient?
  template <class... Vars>
  bool wants(const Vars&... vars) const {
    return recording_ && (... || vars.needs_grad());
  }
  Var output(Tensor value, bool needs_grad) const { return Var(std::move(value), needs_grad && recording_); }

  // Records an operator whose result is `out`. Backwards, it is passed over when no gradient reached `out`;
  // else input_gradient runs with out.grad() complete, and out's gradient is dropped. weight_gradient, which
  // may be empty, gets that gradient, of out's shape, and may run much later: it should hold tensors of the
  // values that it needs, not Vars, so that nothing else stays in memory until then.
  using WeightGradient = std::function<void(const Tensor& out_gradient)>;
  void record(const Var& out, std::function<void()> input_gradient, WeightGradient weight_gradient = {});

  // Records an operator whose input gradient is an all-reduce over ranks: begin() starts it, weight gradients
  // of operators that were recorded after it run in the meantime, and end() waits for it and accumulates the
  // result.
  void record_sum(const Var& out, std::function<void()> begin, std::function<void()> end);

  // Records an operator that is a tape of its own. Backwards, `inner` makes it, with gradients set on its
  // outputs; it goes backward as this one does, whole or in halves; input_gradient runs when its inputs have
  // their gradients.
  void record_tape(const Var& out, std::function<Tape()> inner, std::function<void()> input_gradient);

  // Backwards, `function` runs as soon as what was recorded after it has all its gradients, weights included.
  void mark(std::function<void()> function);

  // What is named from now on is shown to `observer`, with its gradient, also in operators that are tapes.
  void observe(std::shared_ptr<Observer> observer) { observer_ = std::move(observer); }
  const std::shared_ptr<Observer>& observer() const { return observer_; }
  // Names the result of an operator on this tape, "LAYER WHAT", before others use it: each rank names it
  // alike, and its value and gradient are equal on all tensor-parallel ranks; or `result` has a rank's rows
  // [first_row, first_row + rows) of what is named, and padding behind them. Does nothing without an
  // observer.
  void name(const Var& result, const std::string& layer, const char* what) const;
  void name(const Var& result, const std::string& layer, const char* what, int64_t first_row,
            int64_t rows) const;

  // Runs the backward pass from the gradients set on outputs (Var::set_grad). The tape is empty afterwards.
  void backward();
  // The same in two halves, one after the other; gradients are the same to the bit.
  // - backward_inputs forms the gradients of values. It also forms those of weights where one closure forms
  //   both (norms, biases, scales: vectors).
  // - backward_weights forms what is left, the weight_gradient closures in backward()'s order, and runs the
  //   marks. It throws where backward_inputs has not run.
  // Between them the tape holds what those closures read, for each of them an input's value and an output's
  // gradient, also of recomputed operators; all other values and gradients are freed.
  void backward_inputs();
  void backward_weights();

 private:
  struct Step {
    Var out;  // undefined: a mark, its function in weight_gradient
    std::function<void()> input_gradient;
    WeightGradient weight_gradient;
    std::function<void()> end;    // of a sum that input_gradient has begun
    std::function<Tape()> inner;  // of an operator that is a tape
  };
  // What is left of a step when its input gradient is there.
  struct WeightHalf {
    WeightGradient form;
    Tensor out_gradient;
    bool mark = false;

    void run() const {
      if (form) form(out_gradient);
    }
  };
  void observe_gradient(const Var& out) const;
  WeightHalf take_last(bool in_halves);
  void form_waiting();
  Stream stream_;
  bool recording_, by_row_;
  std::shared_ptr<Observer> observer_;
  std::vector<Step> steps_;
  int sums_ = 0;                     // among the steps
  std::vector<WeightHalf> waiting_;  // left for later, oldest first
};

// Of an operator with several results: their gradients, undefined where none reached one.
using ResultGradients = std::shared_ptr<std::vector<Tensor>>;
// Called after the operator has been recorded with results[0] as its output. Backwards the other results run
// before it: they leave their gradients in `gradients`, and give results[0] a gradient of zero if it has
// none.
void record_other_results(Tape& tape, const std::vector<Var>& results, const ResultGradients& gradients);

// Activation checkpointing: runs `function` without recording and keeps only its inputs and outputs; the
// backward pass runs it again with recording and differentiates it. `function` must compute the same results
// both times and use no Var with needs_grad except `inputs` and parameters (leaves).
using Recomputed = std::function<std::vector<Var>(Tape&, const std::vector<Var>& inputs)>;
std::vector<Var> recompute(Tape& tape, const std::vector<Var>& inputs, const Recomputed& function);

}  // namespace wuneng

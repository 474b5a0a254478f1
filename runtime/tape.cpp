#include "runtime/tape.h"

namespace wuneng {

Tensor Var::fresh_grad(Node& node) {
  if (!node.whole || node.grad.defined())
    return Tensor::empty(node.value.shape(), node.gradient, node.value.device());
  Node& whole = *node.whole;
  if (!whole.grad.defined()) whole.grad = fresh_grad(whole);
  return whole.grad.rows(node.first_row, node.first_row + node.value.dim(0));
}

Tensor Var::fresh_grad() const { return fresh_grad(*node_); }

void Var::set_grad(Tensor grad) const {
  if (node_->whole) {
    const Tensor place = fresh_grad();
    if (place.raw() != grad.raw()) place.copy_from(grad);
    grad = place;
  }
  node_->grad = std::move(grad);
}

const Tensor& Var::grad_buffer() const {
  if (!node_->grad.defined()) {
    node_->grad = fresh_grad();
    node_->grad.zero();
  }
  return node_->grad;
}

Gradient Var::gradient() const {
  Tensor& grad = node_->grad;
  // The gradient of a slice is in place: the whole is not read before it is complete.
  if (grad.defined() && (node_->whole || !grad.shared())) return grad;
  Gradient to(fresh_grad(), grad);
  grad = to.out;
  return to;
}

Var Var::rows(int64_t begin, int64_t end) const {
  Var piece(node_->value.rows(begin, end), node_->needs_grad, node_->gradient);
  piece.node_->whole = node_;
  piece.node_->first_row = begin;
  return piece;
}

void Var::add_grad(const Tensor& grad) const {
  if (grad.numel() != node_->value.numel())
    fail("gradient of shape {} for a value of shape {}", to_string(grad.shape()),
         to_string(node_->value.shape()));
  if (!node_->grad.defined()) {
    set_grad(grad.view(node_->value.shape()));
    return;
  }
  gradient().begun().add(grad);
}

void Tape::record(const Var& out, std::function<void()> input_gradient,
                  std::function<void()> weight_gradient) {
  if (recording_ && out.needs_grad())
    steps_.push_back({out, std::move(input_gradient), std::move(weight_gradient)});
}

void Tape::record_sum(const Var& out, std::function<void()> begin, std::function<void()> end) {
  if (!recording_ || !out.needs_grad()) return;
  steps_.push_back({out, std::move(begin), {}, std::move(end)});
  ++sums_;
}

void Tape::mark(std::function<void()> function) {
  if (recording_) steps_.push_back({{}, {}, std::move(function)});
}

void Tape::Step::form_weight_gradient() const {
  if (weight_gradient) weight_gradient();
  if (!mark()) out.drop_grad();
}

Tape::Step Tape::take_last() {
  Step step = std::move(steps_.back());
  steps_.pop_back();
  if (step.end) --sums_;
  if (!step.mark() && !step.out.has_grad()) return {};
  if (step.input_gradient) step.input_gradient();
  step.input_gradient = {};
  return step;
}

void Tape::backward_inputs() {
  while (!steps_.empty()) {
    Step step = take_last();
    if (step.end) step.end();
    if (step.weight_gradient)
      waiting_.push_back(std::move(step));
    else
      step.form_weight_gradient();
  }
}

void Tape::backward_weights() {
  for (Step& step : waiting_) {
    step.form_weight_gradient();
    step = {};
  }
  waiting_.clear();
}

void Tape::backward() {
  while (!steps_.empty()) {
    Step step = take_last();
    if (step.end) {
      backward_weights();
      step.end();
    }
    // Deferred to overlap the next all-reduce, if there is one. A mark waits for the deferred ones before it.
    if (step.weight_gradient && sums_ > 0 && !(step.mark() && waiting_.empty()))
      waiting_.push_back(std::move(step));
    else
      step.form_weight_gradient();
  }
  backward_weights();
}

Var recompute(Tape& tape, const std::vector<Var>& inputs, const Recomputed& function) {
  Tape silent(tape.stream(), false);
  const Var out(function(silent, inputs).value(), tape.recording());
  tape.record(out, [stream = tape.stream(), inputs, function, out] {
    Tape again(stream);
    std::vector<Var> fresh;  // separate gradients, so that the inner tape does not modify the outer ones
    for (const Var& v : inputs) fresh.emplace_back(v.value(), v.needs_grad());
    function(again, fresh).set_grad(out.grad());
    again.backward();
    for (size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].needs_grad() && fresh[i].has_grad()) inputs[i].add_grad(fresh[i].grad());
  });
  return out;
}

}  // namespace wuneng

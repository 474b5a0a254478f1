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
  // A piece's has its place, where nobody else reads before the whole is complete.
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

void Tape::backward_inputs() {
  for (; !steps_.empty(); steps_.pop_back()) {
    Step& step = steps_.back();
    if (!step.out.has_grad()) continue;
    if (step.input_gradient) step.input_gradient();
    step.input_gradient = {};
    if (step.weight_gradient)
      waiting_.push_back(std::move(step));
    else
      step.out.drop_grad();
  }
}

void Tape::backward_weights() {
  for (Step& step : waiting_) {
    step.weight_gradient();
    step.out.drop_grad();
    step = {};
  }
  waiting_.clear();
}

void Tape::backward() {
  for (; !steps_.empty(); steps_.pop_back()) {
    Step& step = steps_.back();
    if (!step.out.has_grad()) continue;
    if (step.input_gradient) step.input_gradient();
    if (step.weight_gradient) step.weight_gradient();
    step.out.drop_grad();
  }
  backward_weights();
}

Var recompute(Tape& tape, const std::vector<Var>& inputs, const Recomputed& function) {
  Tape silent(tape.stream(), false);
  const Var out(function(silent, inputs).value(), tape.recording());
  tape.record(out, [stream = tape.stream(), inputs, function, out] {
    Tape again(stream);
    std::vector<Var> fresh;  // own gradients, so that the inner tape never touches the outer one's
    for (const Var& v : inputs) fresh.emplace_back(v.value(), v.needs_grad());
    function(again, fresh).set_grad(out.grad());
    again.backward();
    for (size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].needs_grad() && fresh[i].has_grad()) inputs[i].add_grad(fresh[i].grad());
  });
  return out;
}

}  // namespace wuneng

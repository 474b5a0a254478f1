#include "runtime/tape.h"

namespace wuneng {

const Tensor& Var::grad_buffer() const {
  if (!node_->grad.defined()) {
    node_->grad = fresh_grad();
    node_->grad.zero();
  }
  return node_->grad;
}

Gradient Var::gradient() const {
  const bool own = node_->grad.defined() && !node_->grad.shared();
  if (own) return node_->grad;
  Gradient to(fresh_grad(), node_->grad);
  node_->grad = to.out;
  return to;
}

void Var::add_grad(const Tensor& grad) const {
  if (grad.numel() != node_->value.numel())
    fail("gradient of shape {} for a value of shape {}", to_string(grad.shape()),
         to_string(node_->value.shape()));
  if (!node_->grad.defined()) {
    node_->grad = grad.view(node_->value.shape());
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

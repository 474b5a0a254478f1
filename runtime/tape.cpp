#include "runtime/tape.h"

namespace wuneng {

const Tensor& Var::grad_buffer() const {
  if (!node_->grad.defined()) {
    node_->grad = fresh_grad();
    node_->grad.zero();
  }
  return node_->grad;
}

void Var::add_grad(const Tensor& grad) const {
  if (grad.numel() != node_->value.numel())
    fail("gradient of shape {} for a value of shape {}", to_string(grad.shape()),
         to_string(node_->value.shape()));
  if (!node_->grad.defined()) {
    node_->grad = grad.view(node_->value.shape());
    return;
  }
  node_->grad.add(grad);
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
    // Left for the next sum, if there is one; a mark stands behind what is left.
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

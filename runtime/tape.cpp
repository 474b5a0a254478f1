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

void Tape::record(const Var& out, std::function<void()> input_gradient, WeightGradient weight_gradient) {
  if (recording_ && out.needs_grad())
    steps_.push_back({out, std::move(input_gradient), std::move(weight_gradient)});
}

void Tape::record_sum(const Var& out, std::function<void()> begin, std::function<void()> end) {
  if (!recording_ || !out.needs_grad()) return;
  steps_.push_back({out, std::move(begin), {}, std::move(end)});
  ++sums_;
}

void Tape::record_tape(const Var& out, std::function<Tape()> inner, std::function<void()> input_gradient) {
  if (recording_ && out.needs_grad())
    steps_.push_back({out, std::move(input_gradient), {}, {}, std::move(inner)});
}

void Tape::mark(std::function<void()> function) {
  if (recording_) steps_.push_back({{}, {}, [f = std::move(function)](const Tensor&) { f(); }});
}

void Tape::name(const Var& result, const std::string& layer, const char* what) const {
  name(result, layer, what, 0, result.dim(0));
}

void Tape::name(const Var& result, const std::string& layer, const char* what, int64_t first_row,
                int64_t rows) const {
  if (!observer_) return;
  const auto name = std::make_shared<const ObservedName>(ObservedName{layer + " " + what, first_row});
  observer_->value(*name, result.value().rows(0, rows));
  if (!recording_) return;
  result.node_->name = name;
  result.node_->observed_rows = rows;
}

void Tape::observe_gradient(const Var& out) const {
  const Var::Node& node = *out.node_;
  if (!observer_ || !node.name) return;
  const bool whole = node.observed_rows == node.value.dim(0);
  const Tensor given = whole ? node.grad : node.grad.rows(0, node.observed_rows),
               gradient = observer_->gradient(*node.name, given);
  WUNENG_ASSERT(whole || gradient.raw() == given.raw());
  if (whole) out.set_grad(gradient);
}

// Runs the last step's input half; returns its weight half, which alone holds what it reads.
Tape::WeightHalf Tape::take_last(bool in_halves) {
  Step step = std::move(steps_.back());
  steps_.pop_back();
  if (step.end) --sums_;
  if (!step.out.defined()) return {std::move(step.weight_gradient), {}, true};
  if (!step.out.has_grad()) return {};
  observe_gradient(step.out);
  WeightHalf rest;
  if (step.weight_gradient) rest = {std::move(step.weight_gradient), step.out.grad()};
  if (step.inner) {
    const auto inner = std::make_shared<Tape>(step.inner());
    if (in_halves) {
      inner->backward_inputs();
      rest.form = [inner](const Tensor&) { inner->backward_weights(); };
    } else {
      inner->backward();
    }
  }
  if (step.input_gradient) step.input_gradient();
  if (step.end) {
    if (!in_halves) form_waiting();  // while the sum is formed
    step.end();
  }
  step.out.drop_grad();
  return rest;
}

void Tape::form_waiting() {
  for (WeightHalf& half : waiting_) {
    half.run();
    half = {};
  }
  waiting_.clear();
}

void Tape::backward_inputs() {
  while (!steps_.empty())
    if (WeightHalf rest = take_last(true); rest.form) waiting_.push_back(std::move(rest));
}

void Tape::backward_weights() {
  require(steps_.empty(),
          "tape: backward_weights: expected backward_inputs before it, found {} operators and marks whose "
          "input gradients have not been formed",
          steps_.size());
  form_waiting();
}

void Tape::backward() {
  require(waiting_.empty(),
          "tape: backward: expected backward_weights after backward_inputs, found {} weight gradients left",
          waiting_.size());
  while (!steps_.empty()) {
    WeightHalf rest = take_last(false);
    // Left for the next sum, if there is one; a mark stands behind what is left.
    if (rest.mark ? !waiting_.empty() : rest.form && sums_ > 0)
      waiting_.push_back(std::move(rest));
    else
      rest.run();
    if (sums_ == 0) form_waiting();
  }
}

void record_other_results(Tape& tape, const std::vector<Var>& results, const ResultGradients& gradients) {
  for (size_t i = 1; i < results.size(); ++i)
    tape.record(results[i], [i, result = results[i], first = results[0], gradients] {
      (*gradients)[i] = result.grad();
      if (!first.has_grad())
        first.set_grad(Tensor::zeros(first.shape(), first.value().dtype(), first.value().device()));
    });
}

std::vector<Var> recompute(Tape& tape, const std::vector<Var>& inputs, const Recomputed& function) {
  Tape silent = tape.silent();
  std::vector<Var> outputs;
  for (const Var& v : function(silent, inputs)) outputs.emplace_back(v.value(), tape.recording());
  // Inputs with gradients of their own, so that the inner tape never touches the outer one's.
  const auto fresh = std::make_shared<std::vector<Var>>();
  const auto gradients = std::make_shared<std::vector<Tensor>>(outputs.size());
  tape.record_tape(
      outputs[0],
      [stream = tape.stream(), observer = tape.observer(), inputs, function, first = outputs[0], fresh,
       gradients] {
        (*gradients)[0] = first.grad();
        Tape again(stream);
        again.observe(observer);
        for (const Var& v : inputs) fresh->emplace_back(v.value(), v.needs_grad());
        const std::vector<Var> results = function(again, *fresh);
        for (size_t i = 0; i < results.size(); ++i)
          if ((*gradients)[i].defined()) results[i].set_grad(std::move((*gradients)[i]));
        return again;
      },
      [inputs, fresh] {
        for (size_t i = 0; i < inputs.size(); ++i)
          if (inputs[i].needs_grad() && (*fresh)[i].has_grad()) inputs[i].add_grad((*fresh)[i].grad());
      });
  record_other_results(tape, outputs, gradients);
  return outputs;
}

}  // namespace wuneng

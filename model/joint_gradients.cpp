#include "model/joint_gradients.h"

#include <algorithm>
#include <utility>

#include "kernels/matmul.h"
#include "kernels/rows.h"

namespace wuneng::ops {
namespace {

// One tensor of the rows of all pieces, and the copies that fill it; none where they lie together.
Tensor joined(const std::vector<Tensor>& pieces, std::vector<kernels::CopyTensorsArgs::Copy>& copies) {
  Tensor together = pieces.front();
  Shape shape = together.shape();
  for (size_t i = 1; i < pieces.size(); ++i) {
    shape[0] += pieces[i].dim(0);
    together = Tensor::together(together, pieces[i]);
  }
  if (together.defined()) return together;
  const Tensor all = Tensor::empty(shape, pieces.front().dtype(), pieces.front().device());
  int64_t first = 0;
  for (const Tensor& piece : pieces) {
    copies.push_back({piece, all.rows(first, first + piece.dim(0))});
    first += piece.dim(0);
  }
  return all;
}

}  // namespace

JointGradientsPtr JointGradients::begin(Tape& tape) {
  if (!tape.recording()) return nullptr;
  auto one = std::make_shared<JointGradients>();
  one->place_ = tape.output(Tensor::empty({1}), true);
  tape.record(
      one->place_, [] {}, [one, stream = tape.stream()](const Tensor&) { one->form(stream); });
  return one;
}

void JointGradients::leave(const Parameter* weight, const Tensor& dy, const Tensor& x) {
  if (!place_.has_grad()) place_.set_grad(place_.value());
  if (!left_.contains(weight)) order_.push_back(weight);
  left_[weight].dy.push_back(dy);
  left_[weight].x.push_back(x);
}

void JointGradients::form(const Stream& stream) {
  std::vector<kernels::CopyTensorsArgs::Copy> copies;
  std::vector<kernels::HeadMatmulWeightGradArgs> products;
  auto left = std::exchange(left_, {});
  for (const Parameter* weight : std::exchange(order_, {})) {
    auto& [dy, x] = left.at(weight);
    std::reverse(dy.begin(), dy.end());
    std::reverse(x.begin(), x.end());
    products.push_back({.dy = joined(dy, copies),
                        .x = joined(x, copies),
                        .dw = weight->var.grad_buffer(),
                        .like = weight->var.value().dtype()});
  }
  if (!copies.empty()) kernels::copy_tensors(stream, {copies});
  for (const auto& product : products) kernels::head_matmul_weight_grad(stream, product);
}

}  // namespace wuneng::ops

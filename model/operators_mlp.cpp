// The operators of the MLP: see operators.h.
#include "kernels/matmul.h"
#include "kernels/swiglu.h"
#include "model/operators.h"

namespace wuneng::ops {
namespace {

// Of two matrices. Where one is frozen and the other has been moved they do not lie together: a copy.
Tensor stacked(const Tensor& first, const Tensor& second) {
  if (const Tensor both = Tensor::together(first, second); both.defined()) return both;
  const int64_t rows = first.dim(0);
  const Tensor both = Tensor::empty({rows + second.dim(0), first.dim(1)}, first.dtype(), first.device());
  both.rows(0, rows).copy_from(first);
  both.rows(rows, both.dim(0)).copy_from(second);
  return both;
}

// dy [T, 2 O], x [T, I]
void pair_weight_gradient(const Stream& stream, const Tensor& dy, const Tensor& x, P first, P second) {
  const int64_t O = first->var.dim(0);
  const bool both = first->var.needs_grad() && second->var.needs_grad();
  const bool have = both && first->var.has_grad() && second->var.has_grad();
  Tensor sum = have ? Tensor::together(first->var.grad(), second->var.grad()) : Tensor();
  const bool accumulates = sum.defined();
  if (!accumulates) sum = Tensor::empty({2 * O, x.dim(1)}, DType::f32, stream.device);
  kernels::matmul(stream, {.a = dy,
                           .b = x,
                           .c = sum,
                           .transpose_a = true,
                           .accumulate = accumulates ? 1.0f : 0.0f,
                           .like = first->var.value().dtype()});
  if (accumulates) return;
  for (P p : {first, second})
    if (p->var.needs_grad()) p->var.add_grad(p == first ? sum.rows(0, O) : sum.rows(O, 2 * O));
}

}  // namespace

Var linear_pair(Tape& tape, const Var& x, P first, P second) {
  const Tensor weight = stacked(first->var.value(), second->var.value()),
               y = like(x, {x.dim(0), weight.dim(0)});
  kernels::matmul(tape.stream(), {.a = x.value(),
                                  .b = weight,
                                  .c = y,
                                  .transpose_b = true,
                                  .b_scale = Tensor::together(first->row_scale, second->row_scale),
                                  .by_row = tape.by_row()});
  const Var out = tape.output(y, tape.wants(x, first->var, second->var));
  const bool trains = first->var.needs_grad() || second->var.needs_grad();
  tape.record(
      out,
      [=, stream = tape.stream()] {
        if (!x.needs_grad()) return;
        const Gradient g = x.gradient();
        kernels::matmul(stream, {.a = out.grad(),
                                 .b = stacked(first->var.value(), second->var.value()),
                                 .c = g.out,
                                 .base = g.base});
      },
      !trains ? Tape::WeightGradient()
              : [=, stream = tape.stream(),
                 x = x.value()](const Tensor& dy) { pair_weight_gradient(stream, dy, x, first, second); });
  return out;
}

Var swiglu(Tape& tape, const Var& x) {
  const Tensor y = like(x, {x.dim(0), x.dim(1) / 2});
  kernels::swiglu(tape.stream(), {.x = x.value(), .y = y});
  const Var out = tape.output(y, tape.wants(x));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::swiglu_backward(stream, {.x = x.value(), .dy = out.grad(), .dx = x.gradient()});
  });
  return out;
}

}  // namespace wuneng::ops

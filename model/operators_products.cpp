// The operators that multiply with weights: see operators.h.
#include "kernels/channel.h"
#include "kernels/matmul.h"
#include "model/operators.h"
#include "parallel/sequence_parallel.h"
#include "parallel/tensor_parallel.h"

namespace wuneng::ops {
namespace {

// A product into the gradient of x.
void matmul_into(const Stream& stream, const Var& x, kernels::MatmulArgs args) {
  const Gradient g = x.gradient();
  args.c = g.out.view({x.dim(0), x.value().numel() / std::max<int64_t>(1, x.dim(0))});
  if (g.base.defined()) args.base = g.base.view(args.c.shape());
  kernels::matmul(stream, args);
}
// The same of a parameter, whose gradient stays where it is.
void matmul_into(const Stream& stream, P p, kernels::MatmulArgs args) {
  const bool fresh = !p->var.has_grad();
  if (fresh) p->var.set_grad(p->var.fresh_grad());
  args.c = p->var.grad().view({p->var.dim(0), p->var.value().numel() / std::max<int64_t>(1, p->var.dim(0))});
  args.accumulate = fresh ? 0 : 1;
  kernels::matmul(stream, args);
}

// x [T, I], of whatever shape its rows are.
Tensor flat(const Var& x, P weight) { return x.value().view({x.dim(0), weight->var.dim(1)}); }

// Of y = x W^T, where they are wanted.
void input_gradient(const Stream& stream, const Tensor& dy, const Var& x, P weight) {
  if (x.needs_grad()) matmul_into(stream, x, {.a = dy, .b = weight->var.value()});
}
void weight_gradient(const Stream& stream, const Tensor& dy, const Tensor& x, P weight, P bias = nullptr) {
  const Tensor sums = bias && bias->var.needs_grad() ? bias->var.grad_buffer() : Tensor();
  if (weight->var.needs_grad())
    matmul_into(stream, weight,
                {.a = dy, .b = x, .transpose_a = true, .sums = sums, .like = weight->var.value().dtype()});
  else if (sums.defined())
    kernels::column_sum(stream, {.dy = dy, .dbias = sums});
}

// The sum of products [T, O] over the ranks, all of it or this rank's share of its rows.
Tensor row_parallel_sum(const Tape& tape, const Comm& tp, const std::vector<Product>& products,
                        bool scatter) {
  const Var& x = products.front().x;
  const int64_t T = x.dim(0), O = products.front().weight->var.dim(0);
  const auto form = [&](const Tensor& y, int64_t begin, int64_t end) {
    for (size_t i = 0; i < products.size(); ++i)
      kernels::matmul(tape.stream(), {.a = flat(products[i].x, products[i].weight).rows(begin, end),
                                      .b = products[i].weight->var.value(),
                                      .c = y.rows(begin, end),
                                      .transpose_b = true,
                                      .accumulate = i > 0 ? 1.0f : 0.0f,
                                      .b_scale = products[i].weight->row_scale,
                                      .by_row = tape.by_row()});
  };
  if (scatter) {
    const Tensor shares = padded_rows(tp, T, O, x.value().dtype(), x.value().device());
    form(shares, 0, T);
    return reduce_scatter_rows(tp, shares, "output of a row-parallel product");
  }
  const Tensor y = like(x, {T, O});
  sum_in_parts(tp, y, [&](int64_t begin, int64_t end) { form(y, begin, end); });
  return y;
}

}  // namespace

Var linear(Tape& tape, const Var& x, P weight, P bias, const Var& base) {
  const int64_t T = x.dim(0), O = weight->var.dim(0);
  const Tensor y = like(x, {T, O});
  kernels::matmul(tape.stream(), {.a = flat(x, weight),
                                  .b = weight->var.value(),
                                  .c = y,
                                  .transpose_b = true,
                                  .base = base.defined() ? base.value() : Tensor(),
                                  .bias = bias ? bias->var.value() : Tensor(),
                                  .b_scale = weight->row_scale,
                                  .by_row = tape.by_row()});
  const Var out = tape.output(y, tape.wants(x, base, weight->var, bias ? bias->var : Var()));
  const bool trains = weight->var.needs_grad() || (bias && bias->var.needs_grad());
  tape.record(
      out,
      [=, stream = tape.stream()] {
        input_gradient(stream, out.grad(), x, weight);
        if (base.needs_grad()) base.add_grad(out.grad());
      },
      !trains ? Tape::WeightGradient()
              : [=, stream = tape.stream(),
                 x = flat(x, weight)](const Tensor& dy) { weight_gradient(stream, dy, x, weight, bias); });
  return out;
}

Var row_parallel(Tape& tape, const Comm& tp, const std::vector<Product>& products, bool scatter) {
  bool wanted = false, trains = false;
  std::vector<std::pair<Tensor, P>> factors;
  for (const Product& p : products) {
    factors.emplace_back(flat(p.x, p.weight), p.weight);
    wanted |= tape.wants(p.x, p.weight->var);
    trains |= p.weight->var.needs_grad();
  }
  const Var out = tape.output(row_parallel_sum(tape, tp, products, scatter), wanted);
  const auto gathered = std::make_shared<Tensor>();  // the gradient [T, O] of all shares
  tape.record(
      out,
      [=, stream = tape.stream(), T = products.front().x.dim(0)] {
        if (scatter) *gathered = all_gather_rows(tp, out.grad(), T, "gradient of a row-parallel product");
        for (const Product& p : products)
          input_gradient(stream, scatter ? *gathered : out.grad(), p.x, p.weight);
        if (!trains) *gathered = {};
      },
      !trains ? Tape::WeightGradient() : [=, stream = tape.stream()](const Tensor& dy) {
        for (const auto& [x, weight] : factors)
          weight_gradient(stream, scatter ? *gathered : dy, x, weight);
        *gathered = {};
      });
  return out;
}

Var head_linear(Tape& tape, const Var& x, P weight, const Var& base, const Tensor& to,
                const JointGradientsPtr& joint) {
  const Tensor y = to.defined() ? to : like(x, {x.dim(0), x.dim(1), weight->var.dim(1)});
  kernels::head_matmul(tape.stream(), {.x = x.value(),
                                       .w = weight->var.value(),
                                       .y = y,
                                       .base = base.defined() ? base.value() : Tensor(),
                                       .by_row = tape.by_row()});
  const Var out = tape.output(y, tape.wants(x, base, weight->var));
  Tape::WeightGradient backward_weight;
  const bool trains = weight->var.needs_grad();
  if (trains && !joint)
    backward_weight = [=, stream = tape.stream(), x = x.value()](const Tensor& dy) {
      const Tensor dw = weight->var.grad_buffer();
      kernels::head_matmul_weight_grad(stream,
                                       {.dy = dy, .x = x, .dw = dw, .like = weight->var.value().dtype()});
    };
  tape.record(
      out,
      [=, stream = tape.stream()] {
        if (trains && joint) joint->leave(weight, out.grad(), x.value());
        if (base.needs_grad()) base.add_grad(out.grad());
        if (!x.needs_grad()) return;
        const Gradient g = x.gradient();
        const Tensor w = weight->var.value();
        kernels::head_matmul(stream,
                             {.x = out.grad(), .w = w, .y = g.out, .transpose = true, .base = g.base});
      },
      backward_weight);
  return out;
}

}  // namespace wuneng::ops

#include "model/operators.h"

#include "kernels/bonus.h"
#include "kernels/channel.h"
#include "kernels/norm.h"
#include "kernels/rope.h"

namespace wuneng::ops {
namespace {

using kernels::Pointwise;

Gradient gradient(const Var& x) { return x.needs_grad() ? x.gradient() : Gradient(); }
Tensor gradient(P p) { return p->var.needs_grad() ? p->var.grad_buffer() : Tensor(); }

// For kernels that add and want a buffer for every input: one that wants no gradient gets a scratch one.
Tensor begun_or_scratch(const Var& x) {
  const Gradient g = x.needs_grad() ? x.gradient() : Gradient(x.fresh_grad(), {});
  return g.begun();
}

Var pointwise(Tape& tape, Pointwise function, const Var& a, const Var& b, const Var& c) {
  WUNENG_ASSERT(!a.same(b) && !a.same(c) && (!b.defined() || !b.same(c)));  // one gradient each
  const auto value = [](const Var& v) { return v.defined() ? v.value() : Tensor(); };
  const Tensor y = like(a);
  kernels::pointwise(tape.stream(),
                     {.function = function, .a = value(a), .b = value(b), .c = value(c), .y = y});
  const Var out = tape.output(y, tape.wants(a, b, c));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::pointwise_backward(stream, {.function = function,
                                         .a = value(a),
                                         .b = value(b),
                                         .c = value(c),
                                         .y = y,
                                         .dy = out.grad(),
                                         .da = gradient(a),
                                         .db = gradient(b),
                                         .dc = gradient(c)});
  });
  return out;
}

}  // namespace

Var add_bias(Tape& tape, const Var& x, P bias) {
  const Tensor y = like(x);
  kernels::add_bias(tape.stream(), {.x = x.value(), .bias = bias->var.value(), .y = y});
  const Var out = tape.output(y, tape.wants(x, bias->var));
  tape.record(out, [=, stream = tape.stream()] {
    if (x.needs_grad()) x.add_grad(out.grad());
    if (bias->var.needs_grad())
      kernels::column_sum(stream, {.dy = out.grad(), .dbias = bias->var.grad_buffer()});
  });
  return out;
}

Var rms_norm(Tape& tape, const Var& x, P weight, float eps, const Tensor& normed) {
  const Tensor y = normed.defined() ? normed : like(x);
  if (!normed.defined())
    kernels::rms_norm(tape.stream(), {.x = x.value(), .weight = weight->var.value(), .eps = eps, .y = y});
  const Var out = tape.output(y, tape.wants(x, weight->var));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::rms_norm_backward(stream, {.x = x.value(),
                                        .weight = weight->var.value(),
                                        .eps = eps,
                                        .dy = out.grad(),
                                        .dx = gradient(x),
                                        .dweight = gradient(weight)});
  });
  return out;
}

namespace {

// The sum y of a and b, which is there already.
Var added(Tape& tape, const Var& a, const Var& b, const Tensor& y) {
  const Var out = tape.output(y, tape.wants(a, b));
  tape.record(out, [=] {
    if (a.needs_grad()) a.add_grad(out.grad());
    if (b.needs_grad()) b.add_grad(out.grad());
  });
  return out;
}

}  // namespace

std::pair<Var, Var> add_rms_norm(Tape& tape, const Var& a, const Var& b, P weight, float eps) {
  const Tensor sum = like(a), y = like(a);
  kernels::rms_norm(
      tape.stream(),
      {.x = a.value(), .weight = weight->var.value(), .eps = eps, .y = y, .base = b.value(), .sum = sum});
  const Var h = added(tape, a, b, sum);
  return {h, rms_norm(tape, h, weight, eps, y)};
}

Var l2_norm(Tape& tape, const Var& x) {
  const Tensor y = like(x);
  kernels::l2_norm(tape.stream(), {.x = x.value(), .y = y});
  const Var out = tape.output(y, tape.wants(x));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::l2_norm_backward(stream, {.x = x.value(), .dy = out.grad(), .dx = x.gradient()});
  });
  return out;
}

Var group_norm(Tape& tape, const Var& x, P weight, P bias, float eps) {
  const Tensor centered = like(x);
  kernels::center(tape.stream(), {.x = x.value(), .y = {centered, {}}});
  const Var out = tape.output(centered, tape.wants(x));
  tape.record(out,
              [=, stream = tape.stream()] { kernels::center(stream, {.x = out.grad(), .y = x.gradient()}); });
  const int64_t T = x.dim(0), C = x.dim(1) * x.dim(2);
  const Var normed = reshape(tape, rms_norm(tape, out, weight, eps), {T, C});
  return reshape(tape, add_bias(tape, normed, bias), x.shape());
}

Var rope(Tape& tape, const Var& x, const Tensor& cos_sin) {
  const Tensor y = like(x);
  kernels::rope(tape.stream(), {.x = x.value(), .cos_sin = cos_sin, .y = y});
  const Var out = tape.output(y, tape.wants(x));
  tape.record(out, [=, stream = tape.stream()] {
    const Gradient g = x.gradient();
    kernels::rope(stream, {.x = out.grad(), .cos_sin = cos_sin, .inverse = true, .y = g.out, .base = g.base});
  });
  return out;
}

Var rope_of_sum(Tape& tape, const Var& x, const Var& added, P scale, const Tensor& cos_sin) {
  const Tensor y = like(x);
  kernels::rope(
      tape.stream(),
      {.x = x.value(), .cos_sin = cos_sin, .y = y, .added = added.value(), .scale = scale->var.value()});
  const Var out = tape.output(y, tape.wants(x, added, scale->var));
  tape.record(out, [=, stream = tape.stream()] {
    const Tensor dsum = x.needs_grad() ? x.fresh_grad() : like(x);
    kernels::rope(stream, {.x = out.grad(), .cos_sin = cos_sin, .inverse = true, .y = dsum});
    kernels::scale_heads_backward(stream, {.x = added.value(),
                                           .s = scale->var.value(),
                                           .dy = dsum,
                                           .dx = gradient(added),
                                           .ds = gradient(scale)});
    if (x.needs_grad()) x.add_grad(dsum);
  });
  return out;
}

Var reshape(Tape& tape, const Var& x, Shape shape) {
  const Var out = tape.output(x.value().view(std::move(shape)), tape.wants(x));
  tape.record(out, [=] { x.add_grad(out.grad()); });
  return out;
}

Var add(Tape& tape, const Var& a, const Var& b, const Tensor& to) {
  const Tensor y = to.defined() ? to : like(a);
  kernels::pointwise(tape.stream(), {.function = Pointwise::add, .a = a.value(), .b = b.value(), .y = y});
  return added(tape, a, b, y);
}

Var silu(Tape& tape, const Var& x) { return pointwise(tape, Pointwise::silu, x, {}, {}); }
Var tanh(Tape& tape, const Var& x) { return pointwise(tape, Pointwise::tanh, x, {}, {}); }
Var sigmoid(Tape& tape, const Var& x) { return pointwise(tape, Pointwise::sigmoid, x, {}, {}); }
Var mix(Tape& tape, const Var& gate, const Var& a, const Var& b) {
  return pointwise(tape, Pointwise::mix, a, b, gate);
}

Var gate(Tape& tape, const Var& a, const Var& b) { return pointwise(tape, Pointwise::gate, a, b, {}); }

Var bonus(Tape& tape, const Var& a, const Var& b, const Var& v, const Var& base) {
  WUNENG_ASSERT(!a.same(b) && !a.same(v) && !b.same(v));  // one gradient each
  const Tensor y = like(v);
  kernels::bonus(tape.stream(),
                 {.a = a.value(), .b = b.value(), .v = v.value(), .base = base.value(), .y = y});
  const Var out = tape.output(y, tape.wants(a, b, v, base));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::bonus_backward(stream, {.a = a.value(),
                                     .b = b.value(),
                                     .v = v.value(),
                                     .dy = out.grad(),
                                     .da = gradient(a),
                                     .db = gradient(b),
                                     .dv = gradient(v)});
    if (base.needs_grad()) base.add_grad(out.grad());
  });
  return out;
}

Var bias_sigmoid(Tape& tape, const Var& x, P bias, float scale) {
  const Tensor y = like(x);
  kernels::bias_sigmoid(tape.stream(), {.x = x.value(), .bias = bias->var.value(), .scale = scale, .y = y});
  const Var out = tape.output(y, tape.wants(x, bias->var));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::bias_sigmoid_backward(
        stream, {.y = y, .dy = out.grad(), .scale = scale, .dx = gradient(x), .dbias = gradient(bias)});
  });
  return out;
}

Var key_scale(Tape& tape, const Var& key, const Var& rate, P k_a) {
  WUNENG_ASSERT(!key.same(rate));  // one gradient each
  const Tensor y = like(key);
  kernels::key_scale(tape.stream(),
                     {.key = key.value(), .rate = rate.value(), .k_a = k_a->var.value(), .y = y});
  const Var out = tape.output(y, tape.wants(key, rate, k_a->var));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::key_scale_backward(stream, {.key = key.value(),
                                         .rate = rate.value(),
                                         .k_a = k_a->var.value(),
                                         .dy = out.grad(),
                                         .dkey = gradient(key),
                                         .drate = gradient(rate),
                                         .dk_a = gradient(k_a)});
  });
  return out;
}

Var token_shift(Tape& tape, const Var& x, P mu, const Tensor& document_boundaries) {
  const Tensor y = like(x);
  kernels::token_shift(
      tape.stream(),
      {.x = x.value(), .mu = mu->var.value(), .y = y, .document_boundaries = document_boundaries});
  const Var out = tape.output(y, tape.wants(x, mu->var));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::token_shift_backward(stream, {.x = x.value(),
                                           .mu = mu->var.value(),
                                           .dy = out.grad(),
                                           .dx = gradient(x),
                                           .dmu = gradient(mu),
                                           .document_boundaries = document_boundaries});
  });
  return out;
}

Var scale_channels(Tape& tape, const Var& x, P weight, float factor) {
  const Tensor y = like(x);
  kernels::scale_channels(tape.stream(),
                          {.x = x.value(), .w = weight->var.value(), .factor = factor, .y = y});
  const Var out = tape.output(y, tape.wants(x, weight->var));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::scale_channels_backward(stream, {.x = x.value(),
                                              .w = weight->var.value(),
                                              .dy = out.grad(),
                                              .factor = factor,
                                              .dx = gradient(x),
                                              .dw = gradient(weight)});
  });
  return out;
}

Var scale_heads(Tape& tape, const Var& x, P scale) { return add_scaled_heads(tape, {}, x, scale); }

Var add_scaled_heads(Tape& tape, const Var& base, const Var& x, P scale) {
  const Tensor y = like(x);
  kernels::scale_heads(
      tape.stream(),
      {.x = x.value(), .s = scale->var.value(), .base = base.defined() ? base.value() : Tensor(), .y = y});
  const Var out = tape.output(y, tape.wants(base, x, scale->var));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::scale_heads_backward(stream, {.x = x.value(),
                                           .s = scale->var.value(),
                                           .dy = out.grad(),
                                           .dx = gradient(x),
                                           .ds = gradient(scale)});
    if (base.needs_grad()) base.add_grad(out.grad());
  });
  return out;
}

Var attention(Tape& tape, const Var& q, const Var& k, const Var& v,
              const std::vector<kernels::AttentionSegment>& segments, const std::vector<int>& kv_head,
              int64_t window, const Tensor& table, const Tensor& to) {
  const Tensor y = to.defined() ? to : like(q),
               lse = Tensor::empty({q.dim(0), q.dim(1)}, DType::f32, q.value().device());
  kernels::attention_forward(tape.stream(), {.q = q.value(),
                                             .k = k.value(),
                                             .v = v.value(),
                                             .out = y,
                                             .lse = lse,
                                             .segments = segments,
                                             .kv_head = kv_head,
                                             .window = window,
                                             .by_row = tape.by_row(),
                                             .table = table});
  const Var out = tape.output(y, tape.wants(q, k, v));
  tape.record(out, [=, stream = tape.stream()] {
    const Tensor dq = q.fresh_grad();
    kernels::attention_backward(stream, {.q = q.value(),
                                         .k = k.value(),
                                         .v = v.value(),
                                         .out = y,
                                         .lse = lse,
                                         .dout = out.grad(),
                                         .dq = dq,
                                         .dk = begun_or_scratch(k),
                                         .dv = begun_or_scratch(v),
                                         .segments = segments,
                                         .kv_head = kv_head,
                                         .window = window});
    if (q.needs_grad()) q.add_grad(dq);
  });
  return out;
}

}  // namespace wuneng::ops

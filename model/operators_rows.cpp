// The operators that move rows and heads about: see operators.h.
#include "kernels/channel.h"
#include "model/operators.h"

namespace wuneng::ops {

Var concat(Tape& tape, const Var& a, const Var& b) {
  WUNENG_ASSERT(!a.same(b));  // one gradient each
  Shape shape = a.shape();
  shape.back() += b.shape().back();
  const Tensor y = like(a, shape);
  kernels::concat(tape.stream(), {.a = a.value(), .b = b.value(), .y = y});
  const Var out = tape.output(y, tape.wants(a, b));
  tape.record(out, [=, stream = tape.stream()] {
    const auto gradient = [](const Var& x) { return x.needs_grad() ? x.gradient() : Gradient(); };
    kernels::concat_backward(stream, {.da = gradient(a), .db = gradient(b), .dy = out.grad()});
  });
  return out;
}

bool is_identity(const std::vector<int>& map, int64_t heads) {
  for (size_t h = 0; h < map.size(); ++h)
    if (map[h] != static_cast<int>(h)) return false;
  return static_cast<int64_t>(map.size()) == heads;
}

Var select_heads(Tape& tape, const Var& x, const std::vector<int>& map) {
  if (is_identity(map, x.dim(1))) return x;
  const Tensor y = like(x, {x.dim(0), static_cast<int64_t>(map.size()), x.dim(2)});
  kernels::select_heads(tape.stream(), {.x = x.value(), .y = y, .map = map});
  const Var out = tape.output(y, tape.wants(x));
  tape.record(out, [=, stream = tape.stream()] {
    const Gradient g = x.gradient();
    kernels::sum_heads(stream, {.x = out.grad(), .y = g.out, .map = map, .base = g.base});
  });
  return out;
}

Var sum_heads(Tape& tape, const Var& x, const std::vector<int>& map, int64_t heads) {
  if (is_identity(map, heads)) return x;
  const Tensor y = like(x, {x.dim(0), heads, x.dim(2)});
  kernels::sum_heads(tape.stream(), {.x = x.value(), .y = y, .map = map});
  const Var out = tape.output(y, tape.wants(x));
  tape.record(out, [=, stream = tape.stream()] {
    const Gradient g = x.gradient();
    kernels::select_heads(stream, {.x = out.grad(), .y = g.out, .map = map, .base = g.base});
  });
  return out;
}

Var pack_rows(Tape& tape, const Var& x, const Runs& runs) {
  Shape shape = x.shape();
  shape[0] = 0;
  bool same = true;  // is every row in its place?
  for (const auto& run : runs) {
    same = same && run.begin == shape[0];
    shape[0] += run.count;
  }
  const bool once = shape[0] == x.dim(0);  // every row
  if (same && once) return x;
  const Tensor packed = like(x, shape);
  kernels::pack_rows(tape.stream(), {.tall = x.value(), .packed = packed, .runs = runs});
  const Var out = tape.output(packed, tape.wants(x));
  tape.record(out, [=, stream = tape.stream()] {
    const Gradient g = x.gradient();
    const bool fresh = once && !g.base.defined();
    kernels::unpack_rows(
        stream,
        {.tall = fresh ? g.out : g.begun(), .packed = out.grad(), .runs = runs, .accumulate = !fresh});
  });
  return out;
}

std::vector<Var> split_rows(Tape& tape, const Var& x, const std::vector<int64_t>& counts) {
  const Var whole = tape.output(x.value(), tape.wants(x));
  std::vector<Var> pieces;
  int64_t begin = 0;
  for (const int64_t count : counts) {
    pieces.push_back(whole.rows(begin, begin + count));
    begin += count;
  }
  WUNENG_ASSERT(begin == x.dim(0));
  tape.record(whole, [=] {
    for (const Var& piece : pieces) {
      piece.grad_buffer();  // zero where no gradient reached the piece
      piece.drop_grad();
    }
    x.add_grad(whole.grad());
  });
  return pieces;
}

Var join_rows(Tape& tape, const std::vector<Var>& pieces, const Tensor& to) {
  if (pieces.size() == 1) return pieces[0];
  Shape shape = pieces[0].shape();
  shape[0] = 0;
  bool wanted = false;
  for (const Var& piece : pieces) {
    shape[0] += piece.dim(0);
    wanted |= piece.needs_grad();
  }
  const Tensor joined = to.defined() ? to : like(pieces[0], shape);
  WUNENG_ASSERT(joined.shape() == shape);
  int64_t begin = 0;
  for (const Var& piece : pieces) {
    if (const Tensor place = joined.rows(begin, begin + piece.dim(0)); place.raw() != piece.value().raw())
      place.copy_from(piece.value());
    begin += piece.dim(0);
  }
  const Var out = tape.output(joined, wanted);
  tape.record(out, [=] {
    int64_t at = 0;
    for (const Var& piece : pieces) {
      if (piece.needs_grad()) piece.add_grad(out.grad().rows(at, at + piece.dim(0)));
      at += piece.dim(0);
    }
  });
  return out;
}

Var copies(Tape& tape, P parameter, int64_t count) {
  Shape shape = parameter->var.shape();
  const int64_t each = parameter->var.value().numel();
  shape.insert(shape.begin(), count);
  const Tensor y = Tensor::empty(shape, DType::f32, tape.stream().device);
  for (int64_t i = 0; i < count; ++i)
    y.rows(i, i + 1).view(parameter->var.shape()).copy_from(parameter->var.value());
  const Var out = tape.output(y, tape.wants(parameter->var));
  tape.record(out, [=, stream = tape.stream()] {
    kernels::column_sum(
        stream, {.dy = out.grad().view({count, each}), .dbias = parameter->var.grad_buffer().view({each})});
  });
  return out;
}

Var embedding(Tape& tape, const Tensor& tokens, P table, DType activations) {
  const Device device = tape.stream().device;
  const Tensor y = Tensor::empty({tokens.dim(0), table->var.dim(1)}, activations, device);
  kernels::embedding(tape.stream(), {.table = table->var.value(),
                                     .tokens = tokens.to(device),
                                     .begin = table->held.begin,
                                     .y = y,
                                     .scale = table->row_scale});
  const Var out = tape.output(y, tape.wants(table->var));
  tape.record(out, {}, [=, stream = tape.stream()](const Tensor& dy) {
    kernels::embedding_backward(
        stream, {.dy = dy, .tokens = tokens, .begin = table->held.begin, .dtable = table->var.grad_buffer()});
  });
  return out;
}

}  // namespace wuneng::ops

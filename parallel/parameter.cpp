#include "parallel/parameter.h"

#include <algorithm>
#include <tuple>

namespace wuneng {

Range shard_range(int64_t n, int parts, int part) { return {n * part / parts, n * (part + 1) / parts}; }

Shape Parameter::local_shape() const {
  Shape shape = global_shape;
  shape[shard_dim] = held.size();
  return shape;
}

void join(Parameter& first, Parameter& second) {
  first.joins_next = true;
  if (!first.var.defined()) return;  // names and shapes alone
  const auto moved = [](const Tensor& a, const Tensor& b) {
    Shape shape = a.shape();
    shape[0] += b.dim(0);
    const Tensor both = Tensor::empty(shape, a.dtype(), a.device());
    both.rows(0, a.dim(0)).copy_from(a);
    both.rows(a.dim(0), shape[0]).copy_from(b);
    return std::pair(both.rows(0, a.dim(0)), both.rows(a.dim(0), shape[0]));
  };
  const auto [a, b] = moved(first.var.value(), second.var.value());
  first.var = Var(a, first.var.needs_grad(), DType::f32);
  second.var = Var(b, second.var.needs_grad(), DType::f32);
  if (first.row_scale.defined())
    std::tie(first.row_scale, second.row_scale) = moved(first.row_scale, second.row_scale);
}

int64_t Parameter::owned_elements() const {
  return global_shape[shard_dim] ? element_count(global_shape) / global_shape[shard_dim] * owned.size() : 0;
}

Shape Parameter::held_begin() const {
  Shape begin(global_shape.size(), 0);
  begin[shard_dim] = held.begin;
  return begin;
}

Tensor ParameterPart::of(const Tensor& shard) const {
  return shard.view({shard.numel()}).rows(elements.begin, elements.end);
}

ParameterPart ParameterPart::owned() const {
  const Parameter& p = *parameter;
  if (p.owned == p.held) return *this;
  if (p.owned.size() <= 0) return {parameter, {elements.begin, elements.begin}};
  require(p.shard_dim == 0,
          "parameter {}: owned part {}..{} of held {}..{} along dimension {}: only the first dimension may "
          "overlap",
          p.name, p.owned.begin, p.owned.end, p.held.begin, p.held.end, p.shard_dim);
  const int64_t row = p.var.value().numel() / p.held.size();
  return {parameter,
          elements.common({(p.owned.begin - p.held.begin) * row, (p.owned.end - p.held.begin) * row})};
}

namespace {

// Of a block of a shard of this shape: one element of the dimensions before k, at `corner`, and all of the
// others; its first element is the shard's `first`. Adds what `part` of the block's elements consists of.
void add_rectangles(const Shape& shape, size_t k, Shape corner, int64_t first, Range part,
                    std::vector<Rectangle>& out) {
  if (part.size() <= 0) return;
  int64_t row = 1;
  for (size_t d = k + 1; d < shape.size(); ++d) row *= shape[d];
  const auto in_row = [&](int64_t r, Range elements) {
    corner[k] = r;
    add_rectangles(shape, k + 1, corner, first + r * row, elements, out);
  };
  const Range whole{(part.begin + row - 1) / row, part.end / row};  // rows
  if (whole.size() < 0) return in_row(whole.end, {part.begin - whole.end * row, part.end - whole.end * row});
  if (part.begin < whole.begin * row) in_row(whole.begin - 1, {part.begin - (whole.begin - 1) * row, row});
  if (whole.size() > 0) {
    Shape size = shape;
    std::fill(size.begin(), size.begin() + static_cast<std::ptrdiff_t>(k), 1);
    size[k] = whole.size();
    corner[k] = whole.begin;
    out.push_back({corner, size, {first + whole.begin * row, first + whole.end * row}});
  }
  if (whole.end * row < part.end) in_row(whole.end, {0, part.end - whole.end * row});
}

}  // namespace

std::vector<Rectangle> rectangles(const ParameterPart& part) {
  const Parameter& p = *part.parameter;
  std::vector<Rectangle> out;
  add_rectangles(p.local_shape(), 0, Shape(p.global_shape.size(), 0), 0, part.elements, out);
  for (Rectangle& r : out) r.begin[p.shard_dim] += p.held.begin;
  return out;
}

}  // namespace wuneng

#include "parallel/parameter.h"

#include <cstring>

namespace wuneng {

Range shard_range(int64_t n, int parts, int part) { return {n * part / parts, n * (part + 1) / parts}; }

Shape Parameter::local_shape() const {
  Shape shape = global_shape;
  shape[shard_dim] = held.size();
  return shape;
}

int64_t Parameter::owned_elements() const {
  return global_shape[shard_dim] ? element_count(global_shape) / global_shape[shard_dim] * owned.size() : 0;
}

Shape Parameter::held_begin() const {
  Shape begin(global_shape.size(), 0);
  begin[shard_dim] = held.begin;
  return begin;
}

Shape Parameter::owned_begin() const {
  Shape begin(global_shape.size(), 0);
  begin[shard_dim] = owned.begin;
  return begin;
}

Tensor Parameter::owned_part(const Tensor& shard) const {
  if (owned == held) return shard;
  if (shard_dim == 0) return shard.rows(owned.begin - held.begin, owned.end - held.begin);
  fail(
      "parameter {}: owned part {}..{} of held {}..{} along dimension {}: only the first dimension may "
      "overlap",
      name, owned.begin, owned.end, held.begin, held.end, shard_dim);
}

}  // namespace wuneng

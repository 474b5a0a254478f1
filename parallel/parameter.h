// Parameter: one rank's shard of one logical tensor, and who else holds which part of it.
//
// A logical tensor is what a Hugging Face file or a checkpoint shows under one name. A tensor-parallel rank
// holds a range of it along one dimension. Ranges of different ranks may overlap (a key/value head that
// several ranks need) or be the whole tensor (a norm's weight); an element that several ranks hold is owned
// by the lowest of them, so that norms count it once and checkpoints write it once.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "runtime/tape.h"

namespace wuneng {

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  // What is in both, possibly empty.
  Range common(Range other) const {
    const int64_t from = std::max(begin, other.begin);
    return {from, std::max(from, std::min(end, other.end))};
  }
  bool operator==(const Range&) const = default;
};

// Part `part` of `parts` of n things, sizes as equal as can be: [floor(n part / parts), floor(n (part + 1) /
// parts)).
Range shard_range(int64_t n, int parts, int part);

struct Parameter {
  std::string name;  // the logical tensor's name, e.g. "model.layers.0.self_attn.q_proj.weight"
  Shape global_shape;
  int shard_dim = 0;         // the dimension along which tensor-parallel ranks cut it: 0 or 1
  Range held;                // this rank's range of that dimension
  Range owned;               // the part of `held` that no lower tensor-parallel rank holds (possibly empty)
  bool sum_over_tp = false;  // every holder's gradient is a share: sum them over the tensor-parallel ranks
  bool sum_over_embedding =
      false;           // a tied embedding that the first and the last pipeline stage both hold: sum over both
  bool decays = true;  // weight decay applies (not to norms, biases, scalars)
  bool trainable = true;  // false: frozen, no gradient, no optimizer state
  // Its rows and those of the next parameter are in one tensor, so that one product multiplies with both; so
  // are their gradients where both are trained.
  bool joins_next = false;
  // Of a matrix in i8 [O, I], for inference alone: [O] f32, row o is row_scale[o] times its elements.
  Tensor row_scale;
  Var var;  // the shard [.., held.size() at shard_dim, ..] in f32 or bf16, and its f32 gradient

  Shape local_shape() const;  // global_shape with shard_dim replaced by held.size()
  int64_t owned_elements() const;
  // Where the shard begins in the logical tensor.
  Shape held_begin() const;
};

// Moves the values of both, and the scales of their rows, into one tensor each. Sets first.joins_next.
void join(Parameter& first, Parameter& second);

using Parameters = std::vector<Parameter*>;

// A range of the elements of this rank's shard, in row-major order.
struct ParameterPart {
  const Parameter* parameter;
  Range elements;

  ParameterPart(const Parameter* p) : ParameterPart(p, {0, p->var.value().numel()}) {}  // the whole shard
  ParameterPart(const Parameter* p, Range range) : parameter(p), elements(range) {}
  // The same elements of a tensor of the shard's shape, [elements.size()], sharing its storage.
  Tensor of(const Tensor& shard) const;
  // What no lower tensor-parallel rank holds, possibly empty.
  ParameterPart owned() const;
};

// A hyper-rectangle of a logical tensor and where its elements are in a rank's shard, row-major.
struct Rectangle {
  Shape begin, size;
  Range elements;
};
// What a part consists of, in the order of its elements: at most 2 n - 1 rectangles of a tensor of n
// dimensions.
std::vector<Rectangle> rectangles(const ParameterPart& part);

}  // namespace wuneng

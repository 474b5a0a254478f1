// Parameter: one rank's shard of one logical tensor, and who else holds which part of it.
//
// A logical tensor is what a Hugging Face file or a checkpoint shows under one name. A tensor-parallel rank
// holds a range of it along one dimension. Ranges of different ranks may overlap (a key/value head that
// several ranks need) or be the whole tensor (a norm's weight); an element that several ranks hold is owned
// by the lowest of them, so that norms count it once and checkpoints write it once.
#pragma once
#include <string>
#include <vector>

#include "runtime/tape.h"

namespace wuneng {

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
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
  // Of a matrix in i8 [O, I], for inference alone: [O] f32, row o is row_scale[o] times its elements.
  Tensor row_scale;
  Var var;  // the shard [.., held.size() at shard_dim, ..] in f32 or bf16, and its f32 gradient

  Shape local_shape() const;  // global_shape with shard_dim replaced by held.size()
  int64_t owned_elements() const;
  // begin of the shard in the logical tensor, and the same for the owned part
  Shape held_begin() const;
  Shape owned_begin() const;
  Tensor owned_part(
      const Tensor& shard) const;  // a copy (or view) of the owned elements of a tensor of local_shape()
};

using Parameters = std::vector<Parameter*>;

}  // namespace wuneng

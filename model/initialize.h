// How a parameter starts: at random in a new model, and in a student that starts from another model. A model
// declares it with the parameter itself (model/parameter_store.h).
//
// Every element depends on the seed, the tensor's name and its place in the logical tensor, never on the
// layout.
#pragma once
#include <functional>
#include <string>

#include "parallel/parameter.h"

namespace wuneng {

// Rows [begin, end) of a tensor of the model that a student starts from, in f32. Throws where there is none
// of that name.
using SourceRows = std::function<Tensor(const std::string& name, int64_t begin, int64_t end)>;

// Fill the shard that `parameter` holds.
using Initializer = std::function<void(const Parameter& parameter, uint64_t seed)>;
using SourceInitializer =
    std::function<void(const Parameter& parameter, uint64_t seed, const SourceRows& source)>;

struct Init {
  Initializer random;
  // In a student whose layer starts from a layer with another mixer; empty: the source's tensor of this name.
  SourceInitializer from_source = {};
  bool apart = false;  // no part of the model: starts at random in either case
  // An option adds it to a trained model without changing the rest: it starts as from_source does where the
  // source's own configuration has none.
  bool optional = false;
};

Initializer constant(float value);
// mean(i) + scale * a standard normal number, where i is an element's index in the logical tensor.
Initializer normal(float scale, std::function<float(int64_t)> mean = {});
// A matrix [C, R] whose columns are orthogonal, or whose rows are where R > C, each of length `scale`.
Initializer orthogonal(float scale);
Initializer values(std::function<float(int64_t index)> value);  // of an element's index in the logical tensor
// The logical tensor as `value` makes it.
SourceInitializer from_tensor(std::function<Tensor(const SourceRows&)> value);

// A parameter that the source has under the same name.
inline Init copied(Initializer random) { return {std::move(random)}; }
// A parameter that no source has: see Init::apart.
inline Init apart(Initializer random) { return {std::move(random), {}, true}; }
// A parameter that a mixer adds to the source's: it starts the same way in either case, or in two.
Init added(Initializer either);
Init added(Initializer random, SourceInitializer from_source);
Init added(Initializer random, Initializer from_source);
// The same, and an option may add it to a trained model: see Init::optional.
Init added_by_option(Initializer either);

}  // namespace wuneng

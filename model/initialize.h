// Initialisation: random parameters of a new model, and the WuNeng parts of a student that starts from a
// teacher.
//
// Every element depends on the seed, the tensor's name and its place in the logical tensor, never on the
// layout.
#pragma once
#include <functional>
#include <string>

#include "model/config.h"
#include "parallel/parameter.h"

namespace wuneng {

// Rows [begin, end) of a tensor of the model that a student starts from, in f32. Throws where there is none
// of that name.
using SourceRows = std::function<Tensor(const std::string& name, int64_t begin, int64_t end)>;

// A new model: normal(0, 0.02) matrices as Qwen2, and the states as RWKV-7 starts them.
void initialize_random(const Parameter& parameter, const ModelConfig& config, uint64_t seed);

// A parameter of the state heads in a student that starts function-preserving from a Qwen2 checkpoint
// (model.md, "A start that changes nothing").
void initialize_preserving(const Parameter& parameter, const ModelConfig& config, uint64_t seed,
                           const SourceRows& teacher);

// Is this one of the parameters that WuNeng adds to Qwen2?
bool is_state_parameter(const std::string& name);

}  // namespace wuneng

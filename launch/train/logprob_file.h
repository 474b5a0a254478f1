// The reference's log-probabilities of labels, computed before a run: a safetensors file with a tensor [rows]
// f32 for each source and split, "source0.train" and "source0.held_out": of each row its label's
// log-probability, 0 where it has none, NaN where the row is in no sequence. Its metadata say of which data
// and of which model they are, with a checksum of each tensor.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "launch/train/training_data.h"

namespace wuneng {

// By source, then split (train, held_out).
using LogprobTensors = std::vector<std::array<Tensor, 2>>;
inline size_t index_of(Split split) { return split == Split::held_out; }

// Replaces recipe.precomputed.
void write_logprobs(const TrainRecipe& recipe, const TrainingData& data, const LogprobTensors& values);
// Opens recipe.precomputed, mapped. Throws unless it is one, of the recipe's data (fingerprint and tokenizer)
// and of the model at teacher.path (weights_fingerprint). check_values: reads all of it and compares the
// checksums too.
LogprobTensors open_logprobs(const TrainRecipe& recipe, const TrainingData& data, bool check_values);

}  // namespace wuneng

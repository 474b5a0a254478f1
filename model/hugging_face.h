// Hugging Face directories: config.json and safetensors. Each rank touches only the pages of its own shard.
#pragma once
#include <memory>
#include <string>

#include "model/weight_source.h"

namespace wuneng {

// Throws where the directory has no config.json of a model that is known or no safetensors, where these lack
// a tensor of that model or have one of another shape or type, and where they have tensors that it has no
// place for. A tied model may store its one matrix as the embedding's, the output's, or both.
std::unique_ptr<WeightSource> open_hugging_face(const std::string& directory);

}  // namespace wuneng

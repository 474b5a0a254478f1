// Hugging Face directories: config.json and safetensors. Each rank touches only the pages of its own shard.
#pragma once
#include <memory>
#include <string>

#include "model/weight_source.h"

namespace wuneng {

// Throws where the directory has no config.json of a model that is known, or no safetensors.
std::unique_ptr<WeightSource> open_hugging_face(const std::string& directory);

}  // namespace wuneng

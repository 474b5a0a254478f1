// Hugging Face directories: config.json and safetensors, in and out. Each rank touches only the pages of its
// own shard.
#pragma once
#include <string>

#include "model/decoder.h"

namespace wuneng {

// Fills every parameter of `model` from a directory whose config.json describes a model of the same shape. A
// layer may start from one with another mixer (MixerType::starts_from): then what its mixer adds starts so
// that the model's function stays (Init::from_source). Errors name file, tensor, expected and found shape.
void load_hugging_face(Decoder& model, const std::string& directory, uint64_t seed);

// Throws unless a model of `config` can start from `directory`, naming the first field that differs.
void check_same_shape(const ModelConfig& config, const ModelConfig& source, const std::string& directory);

}  // namespace wuneng

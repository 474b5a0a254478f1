// How large a model is: from its configuration alone.
#pragma once
#include "model/config.h"

namespace wuneng {

// Every tensor of a model by its name in checkpoints and Hugging Face directories.
std::vector<std::pair<std::string, Shape>> parameter_shapes(const ModelConfig& config);
int64_t parameter_count(const ModelConfig& config);
// Of the same shape: the model with attention alone, and the gated ARWKV student (mixer rwkv7, preset arwkv),
// which the paper compares with.
int64_t attention_parameter_count(const ModelConfig& config);
int64_t rwkv7_student_parameter_count(const ModelConfig& config);

}  // namespace wuneng

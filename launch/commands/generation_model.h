// A model for generation, with its weights in one of several types.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "model/decoder.h"
#include "model/weight_source.h"

namespace wuneng {

// What --weights may be: f32, bf16, or f16 and int8 (model/generation/narrow_weights.h; the other parameters
// in f32 and bf16).
std::vector<std::string> generation_weights();
std::unique_ptr<Decoder> make_generation_model(WeightSource& weights, const std::string& type, Device device,
                                               const Comm& tp);

}  // namespace wuneng

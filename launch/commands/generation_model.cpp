#include "launch/commands/generation_model.h"

#include "launch/train/checkpoint_weights.h"
#include "model/generation/int8_weights.h"

namespace wuneng {

std::vector<std::string> generation_weights() { return {"f32", "bf16", "int8"}; }

std::unique_ptr<Decoder> make_generation_model(WeightSource& weights, const std::string& type, Device device,
                                               const Comm& tp) {
  require(type != "int8" || device == Device{}, "--weights int8: expected --device cpu, found {}",
          to_string(device));
  auto model = make_model(weights, device, type == "f32" ? DType::f32 : DType::bf16, tp);
  if (type == "int8") round_to_int8(*model);
  return model;
}

}  // namespace wuneng

#include "launch/commands/generation_model.h"

#include "launch/train/checkpoint_weights.h"
#include "model/generation/narrow_weights.h"

namespace wuneng {

std::vector<std::string> generation_weights() { return {"f32", "bf16", "f16", "int8"}; }

std::unique_ptr<Decoder> make_generation_model(WeightSource& weights, const std::string& type, Device device,
                                               const Comm& tp) {
  auto model = make_model(weights, device, type == "bf16" || type == "int8" ? DType::bf16 : DType::f32, tp);
  if (type == "f16") narrow_weights(*model, DType::f16);
  if (type == "int8") narrow_weights(*model, DType::i8);
  return model;
}

}  // namespace wuneng

#include "model/parameter_count.h"

#include "model/decoder.h"

namespace wuneng {

std::vector<std::pair<std::string, Shape>> parameter_shapes(const ModelConfig& config) {
  Decoder model(config, Placement{.allocate = false}, DType::f32);
  std::vector<std::pair<std::string, Shape>> out;
  for (const Parameter* p : model.parameters()) out.emplace_back(p->name, p->global_shape);
  return out;
}

int64_t parameter_count(const ModelConfig& config) {
  int64_t count = 0;
  for (const auto& [name, shape] : parameter_shapes(config)) count += element_count(shape);
  return count;
}

int64_t attention_parameter_count(const ModelConfig& config) {
  ModelConfig plain = config;
  plain.set_mixer("attention");
  return parameter_count(plain);
}

int64_t rwkv7_student_parameter_count(const ModelConfig& config) {
  ModelConfig student = config;
  student.set_mixer("rwkv7");
  student.options["rwkv7"]["rwkv_gate"] = true;
  return parameter_count(student);
}

}  // namespace wuneng

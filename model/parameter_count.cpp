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

int64_t qwen2_parameter_count(const ModelConfig& config) {
  ModelConfig plain = config;
  plain.set_mixer("qwen2");
  return parameter_count(plain);
}

int64_t rwkv7_student_parameter_count(const ModelConfig& c) {
  // ARWKV (docs/model.md): r, k, v, o of [d, d], six mu, four biases and low ranks (w, a 64, v 32, g 128),
  // k_k, k_a, r_k.
  const int64_t d = c.hidden_size;
  const int64_t mixer = 4 * d * d + 6 * d + 3 * d + 2 * d * (64 + 64 + 32 + 128) + 3 * d;
  const int64_t layer = mixer + 3 * d * c.intermediate_size + 2 * d;
  return c.num_layers * layer + d + c.vocab_size * d * (c.tie_word_embeddings ? 1 : 2);
}

}  // namespace wuneng

// Weight sources: where a model's weights come from. A Hugging Face directory (model/hugging_face.h) or a
// checkpoint (launch/train/checkpoint_weights.h).
#pragma once
#include <optional>
#include <string>

#include "model/decoder.h"

namespace wuneng {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const ModelConfig& config() const = 0;
  virtual std::string where() const = 0;  // the directory, for messages
  virtual bool contains(const std::string& name) const = 0;
  virtual Shape shape(const std::string& name) const = 0;
  // For the user: what is there and is not used.
  virtual std::vector<std::string> notes() const { return {}; }
  // Fills p's shard from the logical tensor of its name, which has p.global_shape; converts its type.
  virtual void read_shard(const Parameter& p) = 0;
  // Rows [begin, end) of a logical tensor, in f32.
  virtual Tensor rows(const std::string& name, int64_t begin, int64_t end) = 0;
};

// Fills every parameter of `model` from a source of the same shape. A layer may start from one with another
// mixer (MixerType::starts_from): then what its mixer adds starts as Init::from_source has it, for mixer
// wuneng so that the model's function stays; with random_mixers all of that layer's mixer starts at random
// instead. What an option adds to a trained model starts as Init::from_source has it too (Init::optional).
// Errors name directory, tensor, expected and found shape.
void load_weights(Decoder& model, WeightSource& source, uint64_t seed, bool random_mixers = false);

// Equal for equal configurations and weights, in whatever type they are stored: a hash of the first, the
// middle and the last row of every parameter.
uint64_t weights_fingerprint(WeightSource& source);

// The layer of "model.layers.3.self_attn.q_proj.weight"; none for tensors outside layers.
std::optional<int64_t> layer_of(const std::string& name);

// Throws unless a model of `config` can start from `source`, naming the first field that differs.
void check_same_shape(const ModelConfig& config, const ModelConfig& source, const std::string& where);

}  // namespace wuneng

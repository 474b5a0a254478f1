#include "model/hugging_face.h"

#include <cstring>

#include "model/initialize.h"
#include "runtime/safetensors.h"

namespace wuneng {
namespace {

// The held part of a whole tensor, converted to the parameter's type.
void take_shard(const Parameter& p, const Tensor& whole) {
  const Tensor& to = p.var.value();
  if (p.shard_dim == 0) return to.copy_from(whole.rows(p.held.begin, p.held.end));
  WUNENG_ASSERT(p.shard_dim == 1 && whole.ndim() == 2);
  const int64_t columns = p.held.size();
  const Tensor piece = Tensor::empty({whole.dim(0), columns}, whole.dtype());
  const int64_t size = size_of(whole.dtype());
  for (int64_t i = 0; i < whole.dim(0); ++i)
    std::memcpy(static_cast<char*>(piece.raw()) + i * columns * size,
                static_cast<const char*>(whole.raw()) + (i * whole.dim(1) + p.held.begin) * size,
                columns * size);
  to.copy_from(piece);
}

}  // namespace

void check_same_shape(const ModelConfig& config, const ModelConfig& source, const std::string& directory) {
  const auto same = [&](const char* field, auto ours, auto theirs) {
    require(ours == theirs, "{}/config.json: {} = {}, but the model to start from it has {}", directory,
            field, theirs, ours);
  };
  same("hidden_size", config.hidden_size, source.hidden_size);
  same("intermediate_size", config.intermediate_size, source.intermediate_size);
  same("num_hidden_layers", config.num_layers, source.num_layers);
  same("num_attention_heads", config.num_heads, source.num_heads);
  same("num_key_value_heads", config.num_kv_heads, source.num_kv_heads);
  same("head_dim", config.head_dim, source.head_dim);
  same("vocab_size", config.vocab_size, source.vocab_size);
  same("tie_word_embeddings", config.tie_word_embeddings, source.tie_word_embeddings);
  require(config.is_wuneng() || !source.is_wuneng(),
          "{} holds a WuNeng model; a qwen2 model cannot start from it", directory);
}

void load_hugging_face(Decoder& model, const std::string& directory, uint64_t seed) {
  const ModelConfig source = ModelConfig::from_directory(directory);
  const ModelConfig& config = model.config();
  check_same_shape(config, source, directory);
  const SafetensorsDirectory files(directory);
  const SourceRows rows = [&](const std::string& name, int64_t begin, int64_t end) {
    return files.tensor(name).rows(begin, end).to(DType::f32);
  };
  for (const Parameter* p : model.parameters()) {
    if (is_state_parameter(p->name) && !source.is_wuneng()) {
      initialize_preserving(*p, config, seed, rows);
      continue;
    }
    require(files.contains(p->name), "{}: tensor {} is missing; expected shape {}", directory, p->name,
            to_string(p->global_shape));
    const Tensor whole = files.tensor(p->name);
    require(whole.shape() == p->global_shape, "{}: tensor {}: expected shape {}, found {}", directory,
            p->name, to_string(p->global_shape), to_string(whole.shape()));
    take_shard(*p, whole);
  }
}

}  // namespace wuneng

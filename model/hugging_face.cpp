#include "model/hugging_face.h"

#include <algorithm>
#include <cstring>

#include "model/mixers/registry.h"
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

// The layer of "model.layers.3.self_attn.q_proj.weight".
int64_t layer_of(const std::string& name) {
  constexpr std::string_view kPrefix = "model.layers.";
  WUNENG_ASSERT(name.starts_with(kPrefix));
  return std::stoll(name.substr(kPrefix.size()));
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
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string &ours = config.mixer_of(i), &theirs = source.mixer_of(i);
    const std::vector<std::string>& known = mixer_type(ours, directory).starts_from;
    require(ours == theirs || std::find(known.begin(), known.end(), theirs) != known.end(),
            "{}: layer {}: mixer {} cannot start from mixer {}: expected {}", directory, i, ours, theirs,
            known.empty() ? ours : fmt::format("{} or {}", ours, fmt::join(known, ", ")));
  }
}

void load_hugging_face(Decoder& model, const std::string& directory, uint64_t seed) {
  const ModelConfig source = ModelConfig::from_directory(directory);
  const ModelConfig& config = model.config();
  check_same_shape(config, source, directory);
  const SafetensorsDirectory files(directory);
  const SourceRows rows = [&](const std::string& name, int64_t begin, int64_t end) {
    return files.tensor(name).rows(begin, end).to(DType::f32);
  };
  const Parameters parameters = model.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter* const p = parameters[i];
    if (const SourceInitializer& from_source = model.init(i).from_source; from_source) {
      const int64_t layer = layer_of(p->name);
      if (config.mixer_of(layer) != source.mixer_of(layer)) {
        from_source(*p, seed, rows);
        continue;
      }
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

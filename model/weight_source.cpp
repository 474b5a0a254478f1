#include "model/weight_source.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "model/mixers/registry.h"
#include "model/parameter_count.h"
#include "runtime/hash.h"

namespace wuneng {
std::optional<int64_t> layer_of(const std::string& name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  if (error != std::errc() || *end != '.' || layer < 0) return std::nullopt;
  return layer;
}

void check_same_shape(const ModelConfig& config, const ModelConfig& source, const std::string& where) {
  const auto same = [&](const char* field, auto ours, auto theirs) {
    require(ours == theirs, "{}: {} = {}, but the model to start from it has {}", where, field, theirs, ours);
  };
  same("hidden_size", config.hidden_size, source.hidden_size);
  same("intermediate_size", config.intermediate_size, source.intermediate_size);
  same("num_hidden_layers", config.num_layers, source.num_layers);
  same("num_attention_heads", config.num_heads, source.num_heads);
  same("num_key_value_heads", config.num_kv_heads, source.num_kv_heads);
  same("head_dim", config.head_dim, source.head_dim);
  same("vocab_size", config.vocab_size, source.vocab_size);
  same("tie_word_embeddings", config.tie_word_embeddings, source.tie_word_embeddings);
  same("qkv_bias", config.qkv_bias, source.qkv_bias);
  same("qk_norm", config.qk_norm, source.qk_norm);
  same("sliding_window", config.window.keys, source.window.keys);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string &ours = config.mixer_of(i), &theirs = source.mixer_of(i);
    const std::vector<std::string>& known = mixer_type(ours, where).starts_from;
    require(ours == theirs || std::find(known.begin(), known.end(), theirs) != known.end(),
            "{}: layer {}: mixer {} cannot start from mixer {}: expected {}", where, i, ours, theirs,
            known.empty() ? ours : fmt::format("{} or {}", ours, fmt::join(known, ", ")));
  }
}

void load_weights(Decoder& model, WeightSource& source, uint64_t seed, bool random_mixers) {
  const ModelConfig& config = model.config();
  check_same_shape(config, source.config(), source.where());
  const SourceRows rows = [&](const std::string& name, int64_t begin, int64_t end) {
    return source.rows(name, begin, end);
  };
  std::set<std::string> has;  // the source, by its configuration
  for (const auto& [name, shape] : parameter_shapes(source.config())) has.insert(name);
  const Parameters parameters = model.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = *parameters[i];
    const Init& init = model.init(i);
    const std::optional<int64_t> layer = layer_of(p.name);
    const bool other_mixer = layer && config.mixer_of(*layer) != source.config().mixer_of(*layer);
    if (init.apart || (random_mixers && other_mixer && p.name.find(".self_attn.") != std::string::npos)) {
      init.random(p, seed);
      continue;
    }
    if (init.from_source && (other_mixer || (init.optional && !has.contains(p.name)))) {
      init.from_source(p, seed, rows);
      continue;
    }
    require(source.contains(p.name), "{}: tensor {} is missing; expected shape {}", source.where(), p.name,
            to_string(p.global_shape));
    require(source.shape(p.name) == p.global_shape, "{}: tensor {}: expected shape {}, found {}",
            source.where(), p.name, to_string(p.global_shape), to_string(source.shape(p.name)));
    source.read_shard(p);
  }
}

uint64_t weights_fingerprint(WeightSource& source) {
  Hash hash;
  const std::string config = source.config().to_json().dump();
  hash.add(config.data(), static_cast<int64_t>(config.size()));
  Placement shapes;
  shapes.allocate = false;
  Decoder model(source.config(), shapes, DType::f32);
  for (const Parameter* p : model.parameters()) {
    require(source.contains(p->name), "{}: tensor {} is missing", source.where(), p->name);
    const int64_t rows = p->global_shape[0];
    for (const int64_t row : {int64_t{0}, rows / 2, rows - 1}) {
      const Tensor values = source.rows(p->name, row, row + 1);
      hash.add(values.raw(), values.bytes());
    }
  }
  return hash.value();
}

}  // namespace wuneng

// config.json of a Hugging Face directory: to a ModelConfig and back.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "model/config.h"
#include "model/config_reader.h"
#include "model/families.h"
#include "model/mixers/registry.h"
#include "model/rope_settings.h"
#include "model/sliding_window.h"
#include "runtime/input_file.h"
#include "runtime/json_depth.h"

namespace wuneng {
namespace {

using nlohmann::json;

// The model_type of a model whose layers have different mixers, which "mixer" and "layer_mixers" name.
constexpr const char* kMixed = "mixed";

// Settings of other models that change what a model computes, and that these do not have.
void refuse_other_models(const ConfigReader& r) {
  for (const char* key : {"quantization_config", "compression_config"})
    if (const json* value = r.find(key))
      fail("{}: {} ({}): quantised weights are not supported: expected a model in f32, bf16, f16 or f64",
           r.where, key,
           value->is_object() ? value->value("quant_method", json("no quant_method")).dump() : value->dump());
  for (const char* key : {"use_mrope", "rope_interleaved"})
    require(!r.flag(key, false), "{}: {} = true is not supported", r.where, key);
  require(r.flag("is_causal", true), "{}: is_causal = false is not supported: attention is causal", r.where);
  if (const json* act = r.find("hidden_act"))
    r.expect(*act == "silu" || *act == "swish", "hidden_act", *act, "silu");
}

// What model_type may be: a family, a mixer that all layers have, or kMixed.
std::vector<std::string> model_types() {
  std::vector<std::string> names = family_names();
  for (const std::string& name : mixer_names())
    if (!mixer_type(name, "mixer").architecture.empty()) names.push_back(name);
  names.push_back(kMixed);
  return names;
}

// The model_type, or where older files have none, that of the architecture.
std::string model_type(const ConfigReader& r) {
  if (const json* parts = r.find("text_config"); parts && parts->is_object())
    fail("{}: text_config: expected the config.json of a language model, found a model of several parts{}",
         r.where, r.find("model_type") ? " (model_type " + r.get("model_type").dump() + ")" : "");
  const std::vector<std::string> known = model_types();
  if (r.find("model_type")) {
    const std::string type = r.text("model_type");
    require(std::find(known.begin(), known.end(), type) != known.end(),
            "{}: model_type = \"{}\" is not supported: expected one of {}", r.where, type,
            fmt::join(known, ", "));
    return type;
  }
  for (const std::string& architecture : r.texts("architectures")) {
    for (const Family& family : families())
      if (architecture == family.architecture) return family.name;
    for (const std::string& name : mixer_names())
      if (architecture == mixer_type(name, r.where).architecture) return name;
  }
  fail("{}: key 'model_type' is missing: expected one of {}", r.where, fmt::join(known, ", "));
}

bool is_family(const std::string& type) {
  const std::vector<std::string> names = family_names();
  return std::find(names.begin(), names.end(), type) != names.end();
}

// The family of a model_type, and what other models say of theirs: models before these keys came from Qwen2.
void read_family(const ConfigReader& r, const std::string& type, ModelConfig& c) {
  if (is_family(type))
    c.set_family(type);
  else
    c.set_family(family_with(r.flag("qkv_bias", true), r.flag("qk_norm", false), r.where).name);
  for (const std::string& key : family_of(c.family, r.where).without)
    require(!is_family(type) || !r.flag(key.c_str(), false),
            "{}: {} = true is not supported: expected false for model_type {}", r.where, key, type);
}

OptionValues read_options(const ConfigReader& r, const MixerType& type, const ModelConfig& c) {
  OptionValues values;
  for (const Option& option : type.options) {
    const json* value = r.find(option.name.c_str());
    require(value || option.when_absent.defined(), "{}: key '{}' is missing", r.where, option.name);
    values[option.name] = value ? option.from_json(*value, r.where) : option.when_absent(c, values);
  }
  return values;
}

// Is the key written by to_json, or meaningless in a directory that this program writes? auto_map is
// made with the code that it names; the type of the weights and the rotary embedding's settings are those of
// the model.
bool is_own_key(const std::string& key, const json& own) {
  static const std::set<std::string> dropped = {
      "auto_map",           "torch_dtype",      "dtype",      "rope_scaling",
      "rope_type",          "rope_parameters",  "mixer",      "layer_mixers",
      "text_config",        "is_causal",        "use_mrope",  "quantization_config",
      "compression_config", "qkv_bias",         "qk_norm",    "attention_bias",
      "mlp_bias",           "rope_interleaved", "layer_types"};
  if (key == "attention_dropout" || key == "initializer_range") return false;  // for other programs
  const std::vector<std::string> mixers = mixer_names();
  return own.contains(key) || dropped.contains(key) ||
         std::find(mixers.begin(), mixers.end(), key) != mixers.end();
}

}  // namespace

ModelConfig ModelConfig::from_json(const json& j, const std::string& where) {
  require(j.is_object(), "{}: expected a JSON object", where);
  const ConfigReader r{j, where};
  const std::string type = model_type(r);
  ModelConfig c;
  if (type != kMixed) c.mixer = is_family(type) ? "attention" : type;
  refuse_other_models(r);
  read_family(r, type, c);
  const bool plain = is_family(type);
  const Family& family = family_of(c.family, where);
  c.hidden_size = r.integer("hidden_size");
  c.intermediate_size = r.integer("intermediate_size");
  c.num_layers = r.integer("num_hidden_layers");
  c.num_heads = r.integer("num_attention_heads");
  c.num_kv_heads = r.integer(
      "num_key_value_heads",
      plain && family.kv_heads && !j.contains("num_key_value_heads") ? family.kv_heads : c.num_heads);
  require(c.num_heads > 0, "{}: num_attention_heads = {}: expected a positive number", where, c.num_heads);
  const int64_t head_dim = plain ? family.head_dim : 0;
  require(r.find("head_dim") || head_dim || c.hidden_size % c.num_heads == 0,
          "{}: key 'head_dim': expected a number, since hidden_size = {} is not a multiple of "
          "num_attention_heads = {}",
          where, c.hidden_size, c.num_heads);
  c.head_dim = r.integer("head_dim", head_dim ? head_dim : c.hidden_size / c.num_heads);
  c.vocab_size = r.integer("vocab_size");
  c.rms_norm_eps = r.number("rms_norm_eps", 1e-6f);
  c.tie_word_embeddings = r.flag("tie_word_embeddings", false);
  const RopeSettings rope = read_rope_settings(j, where);
  c.rope_theta = rope.theta;
  c.rope_scaling = rope.scaling;
  c.check_sizes(where);
  c.window = read_sliding_window(r, plain ? family : family_of("qwen2", where), c.num_layers);
  if (type == kMixed) {
    c.mixer = mixer_type(r.text("mixer"), where + ": mixer").name;
    c.layer_mixers = parse_layer_mixers(r.texts("layer_mixers"), c.num_layers, where + ": layer_mixers");
  }
  for (const std::string& name : c.mixers()) {
    const MixerType& mixer = mixer_type(name, where);
    if (mixer.options.empty()) continue;
    const json& options = r.get(name.c_str());
    r.expect(options.is_object(), name.c_str(), options, "an object");
    c.options[name] = read_options({options, fmt::format("{} ({})", where, name)}, mixer, c);
  }
  c.check(where);
  const json own = c.to_json();
  for (const auto& [key, value] : j.items())
    if (!is_own_key(key, own)) c.carried[key] = value.dump();
  return c;
}

ModelConfig ModelConfig::from_directory(const std::string& directory) {
  const std::string path = directory + "/config.json";
  const std::string text = read_input_file(path, "the config.json of a Hugging Face model directory");
  require(!json_too_deep(text), "{}: expected JSON nested at most {} deep, found deeper", path, kDeepestJson);
  json parsed;
  try {
    parsed = json::parse(text);
  } catch (const json::exception& e) {
    fail("{}: not JSON: {}", path, e.what());
  }
  return from_json(parsed, path);
}

json ModelConfig::to_json() const {
  const std::vector<std::string> used = mixers();
  const bool mixed = used.size() > 1;
  json j = {{"attention_dropout", 0.0}, {"initializer_range", 0.02}};
  for (const auto& [key, value] : carried) j[key] = json::parse(value);
  j.update({{"architectures", {architecture()}},
            {"model_type", mixed        ? kMixed
                           : is_plain() ? family
                                        : used[0]},
            {"hidden_size", hidden_size},
            {"intermediate_size", intermediate_size},
            {"num_hidden_layers", num_layers},
            {"num_attention_heads", num_heads},
            {"num_key_value_heads", num_kv_heads},
            {"head_dim", head_dim},
            {"vocab_size", vocab_size},
            {"rope_theta", double(rope_theta)},
            {"rms_norm_eps", std::round(double(rms_norm_eps) * 1e12) / 1e12},
            {"tie_word_embeddings", tie_word_embeddings},
            {"hidden_act", "silu"}});
  const Family& own = family_of(family, "model");
  if (is_plain())
    for (const std::string& key : own.without) j[key] = false;
  else
    j["qkv_bias"] = qkv_bias, j["qk_norm"] = qk_norm;
  write_sliding_window(window, is_plain() ? own : family_of("qwen2", "model"), num_layers, j);
  if (const json scaling = rope_scaling_json(rope_scaling); !scaling.is_null()) j["rope_scaling"] = scaling;
  if (mixed) {
    j["mixer"] = mixer;
    std::map<int64_t, std::string> others = layer_mixers;
    std::erase_if(others, [&](const auto& layer) { return layer.second == mixer; });
    j["layer_mixers"] = layer_mixers_to_text(others);
  }
  for (const std::string& name : used)
    for (const auto& [option, value] : options_of(name)) j[name][option] = wuneng::to_json(value);
  return j;
}

}  // namespace wuneng

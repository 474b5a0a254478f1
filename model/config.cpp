#include "model/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/mixers/registry.h"

namespace wuneng {
namespace {

using nlohmann::json;

// The model_type of a model whose layers have different mixers, which "mixer" and "layer_mixers" name.
constexpr const char* kMixed = "mixed";

template <class T>
T field(const json& j, const char* key, const std::string& where, const T* fallback = nullptr) {
  const auto it = j.find(key);
  if (it == j.end() || it->is_null()) {
    require(fallback != nullptr, "{}: key '{}' is missing", where, key);
    return *fallback;
  }
  try {
    return it->get<T>();
  } catch (const json::exception&) {
    fail("{}: key '{}': unexpected value {}", where, key, it->dump());
  }
}

template <class T>
T field_or(const json& j, const char* key, const std::string& where, T fallback) {
  return field<T>(j, key, where, &fallback);
}

OptionValues options_from_json(const json& j, const MixerType& type, const ModelConfig& c,
                               const std::string& where) {
  OptionValues values;
  for (const Option& option : type.options) {
    const auto it = j.find(option.name);
    const bool there = it != j.end() && !it->is_null();
    require(there || option.when_absent.defined(), "{}: key '{}' is missing", where, option.name);
    values[option.name] = there ? option.from_json(*it, where) : option.when_absent(c, values);
  }
  return values;
}

// A layer's number at the beginning of `text`, which is cut off.
int64_t take_layer(std::string_view& text, const std::string& entry, const std::string& where) {
  int64_t layer = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  require(error == std::errc() && layer >= 0,
          "{}: '{}': expected LAYER:MIXER or FIRST-LAST:MIXER, such as \"5-7:wuneng\"", where, entry);
  text.remove_prefix(end - text.data());
  return layer;
}

}  // namespace

std::map<int64_t, std::string> parse_layer_mixers(const std::vector<std::string>& entries, int64_t num_layers,
                                                  const std::string& where) {
  std::map<int64_t, std::string> out;
  for (const std::string& entry : entries) {
    std::string_view rest = entry;
    const int64_t first = take_layer(rest, entry, where);
    int64_t last = first;
    if (rest.starts_with('-')) {
      rest.remove_prefix(1);
      last = take_layer(rest, entry, where);
    }
    require(rest.starts_with(':') && first <= last,
            "{}: '{}': expected LAYER:MIXER or FIRST-LAST:MIXER, such as \"5-7:wuneng\"", where, entry);
    const std::string mixer(rest.substr(1));
    mixer_type(mixer, fmt::format("{}: '{}'", where, entry));
    require(last < num_layers, "{}: '{}': layer {} with mixer {}: expected a layer from 0 to {}", where,
            entry, last, mixer, num_layers - 1);
    for (int64_t layer = first; layer <= last; ++layer) {
      const auto [it, added] = out.emplace(layer, mixer);
      require(added, "{}: '{}': layer {} has mixer {} already", where, entry, layer, it->second);
    }
  }
  return out;
}

std::vector<std::string> layer_mixers_to_text(const std::map<int64_t, std::string>& layer_mixers) {
  std::vector<std::string> out;
  for (auto it = layer_mixers.begin(); it != layer_mixers.end();) {
    const auto [first, mixer] = *it;
    int64_t last = first;
    while (++it != layer_mixers.end() && it->first == last + 1 && it->second == mixer) ++last;
    out.push_back(first == last ? fmt::format("{}:{}", first, mixer)
                                : fmt::format("{}-{}:{}", first, last, mixer));
  }
  return out;
}

const std::string& ModelConfig::mixer_of(int64_t layer) const {
  const auto it = layer_mixers.find(layer);
  return it == layer_mixers.end() ? mixer : it->second;
}

std::vector<std::string> ModelConfig::mixers() const {
  std::vector<std::string> out;
  for (int64_t i = 0; i < num_layers; ++i)
    if (std::find(out.begin(), out.end(), mixer_of(i)) == out.end()) out.push_back(mixer_of(i));
  return out;
}

bool ModelConfig::is_qwen2() const { return mixers() == std::vector<std::string>{"qwen2"}; }

const OptionValues& ModelConfig::options_of(const std::string& name) const {
  static const OptionValues none;
  const auto it = options.find(name);
  return it == options.end() ? none : it->second;
}

void ModelConfig::set_mixer(const std::string& name, const std::string& preset) {
  mixer = name;
  layer_mixers.clear();
  options[name] = default_options(mixer_type(name, "mixer"), preset, *this);
}

void ModelConfig::check(const std::string& where) const {
  for (const auto& [key, value] : {std::pair<const char*, int64_t>{"hidden_size", hidden_size},
                                   {"intermediate_size", intermediate_size},
                                   {"num_hidden_layers", num_layers},
                                   {"num_attention_heads", num_heads},
                                   {"num_key_value_heads", num_kv_heads},
                                   {"head_dim", head_dim},
                                   {"vocab_size", vocab_size}})
    require(value > 0, "{}: {} = {}: expected a positive number", where, key, value);
  require(num_heads % num_kv_heads == 0, "{}: {} heads are not a multiple of {} kv_heads", where, num_heads,
          num_kv_heads);
  require(head_dim % 2 == 0, "{}: head_dim {} is odd; rotary embedding turns pairs of channels", where,
          head_dim);
  for (const auto& [layer, name] : layer_mixers)
    require(layer >= 0 && layer < num_layers, "{}: layer {} with mixer {}: expected a layer from 0 to {}",
            where, layer, name, num_layers - 1);
  for (const std::string& name : mixers()) {
    const MixerType& type = mixer_type(name, where);
    const std::string at = fmt::format("{}, mixer {}", where, name);
    const OptionValues& values = options_of(name);
    for (const Option& option : type.options) {
      require(values.contains(option.name), "{}: option {} is not set", at, option.name);
      option.check(values.at(option.name), at);
    }
    if (type.check) type.check(*this, values, at);
  }
}

ModelConfig ModelConfig::from_json(const json& j, const std::string& where) {
  require(j.is_object(), "{}: expected a JSON object", where);
  ModelConfig c;
  c.hidden_size = field<int64_t>(j, "hidden_size", where);
  c.intermediate_size = field<int64_t>(j, "intermediate_size", where);
  c.num_layers = field<int64_t>(j, "num_hidden_layers", where);
  c.num_heads = field<int64_t>(j, "num_attention_heads", where);
  c.num_kv_heads = field_or<int64_t>(j, "num_key_value_heads", where, c.num_heads);
  require(c.num_heads > 0, "{}: num_attention_heads = {}", where, c.num_heads);
  c.head_dim = field_or<int64_t>(j, "head_dim", where, c.hidden_size / c.num_heads);
  c.vocab_size = field<int64_t>(j, "vocab_size", where);
  c.rms_norm_eps = field_or<float>(j, "rms_norm_eps", where, 1e-6f);
  c.tie_word_embeddings = field_or<bool>(j, "tie_word_embeddings", where, false);
  // Newer writers nest theta under rope_parameters.
  const json rope = field_or<json>(j, "rope_parameters", where, json::object());
  c.rope_theta = rope.contains("rope_theta") ? field<float>(rope, "rope_theta", where)
                                             : field_or<float>(j, "rope_theta", where, 10000.0f);
  const auto rope_type = field_or<std::string>(rope, "rope_type", where, "default");
  require(rope_type == "default" && (!j.contains("rope_scaling") || j["rope_scaling"].is_null()),
          "{}: scaled rotary embedding ('{}') is not supported", where, rope_type);
  require(!field_or<bool>(j, "use_sliding_window", where, false), "{}: use_sliding_window is not supported",
          where);
  require(field_or<std::string>(j, "hidden_act", where, "silu") == "silu", "{}: hidden_act: expected silu",
          where);
  const auto type = field_or<std::string>(j, "model_type", where, "qwen2");
  if (type == kMixed) {
    c.mixer = field<std::string>(j, "mixer", where);
    c.layer_mixers = parse_layer_mixers(field<std::vector<std::string>>(j, "layer_mixers", where),
                                        c.num_layers, where + ": layer_mixers");
  } else {
    c.mixer = mixer_type(type, where + ": model_type").name;
  }
  for (const std::string& name : c.mixers()) {
    const MixerType& mixer = mixer_type(name, where);
    if (!mixer.options.empty())
      c.options[name] = options_from_json(field<json>(j, name.c_str(), where), mixer, c,
                                          fmt::format("{} ({})", where, name));
  }
  c.check(where);
  return c;
}

ModelConfig ModelConfig::from_directory(const std::string& directory) {
  const std::string path = directory + "/config.json";
  std::ifstream in(path);
  require(in.good(), "{}: cannot be read; expected a Hugging Face model directory", path);
  try {
    return from_json(json::parse(in), path);
  } catch (const json::parse_error& e) {
    fail("{}: not JSON: {}", path, e.what());
  }
}

json ModelConfig::to_json() const {
  const std::vector<std::string> used = mixers();
  const bool mixed = used.size() > 1;
  json j = {{"architectures", {mixed ? "MixedForCausalLM" : mixer_type(used[0], "mixer").architecture}},
            {"model_type", mixed ? kMixed : used[0]},
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
            {"hidden_act", "silu"},
            {"use_sliding_window", false},
            {"attention_dropout", 0.0},
            {"initializer_range", 0.02}};
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

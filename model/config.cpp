#include "model/config.h"

#include <algorithm>
#include <charconv>

#include "model/families.h"
#include "model/mixers/registry.h"

namespace wuneng {
namespace {

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
    const std::string mixer =
        mixer_type(std::string(rest.substr(1)), fmt::format("{}: '{}'", where, entry)).name;
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

bool ModelConfig::is_plain() const { return mixers() == std::vector<std::string>{"attention"}; }

std::string ModelConfig::architecture() const {
  const std::vector<std::string> used = mixers();
  if (used.size() > 1) return "MixedForCausalLM";
  return is_plain() ? family_of(family, "model").architecture : mixer_type(used.at(0), "mixer").architecture;
}

const OptionValues& ModelConfig::options_of(const std::string& name) const {
  static const OptionValues none;
  const auto it = options.find(name);
  return it == options.end() ? none : it->second;
}

void ModelConfig::set_family(const std::string& name) {
  const Family& of = family_of(name, "model");
  family = of.name, qkv_bias = of.qkv_bias, qk_norm = of.qk_norm;
  window = {};
}

void ModelConfig::set_mixer(const std::string& name, const std::string& preset) {
  mixer = name;
  layer_mixers.clear();
  options[name] = default_options(mixer_type(name, "mixer"), preset, *this);
}

void ModelConfig::check_sizes(const std::string& where) const {
  struct Size {
    const char* key;
    int64_t value, most;
  };
  for (const auto& [key, value, most] : {Size{"hidden_size", hidden_size, kMaxHidden},
                                         {"intermediate_size", intermediate_size, kMaxIntermediate},
                                         {"num_hidden_layers", num_layers, kMaxLayers},
                                         {"num_attention_heads", num_heads, kMaxHeads},
                                         {"num_key_value_heads", num_kv_heads, kMaxHeads},
                                         {"head_dim", head_dim, kMaxHeadDim},
                                         {"vocab_size", vocab_size, kMaxVocabulary}})
    require(value > 0 && value <= most, "{}: {} = {}: expected 1 to {}", where, key, value, most);
  require(rope_theta >= 1 && rope_theta <= 1e12f, "{}: rope_theta = {}: expected 1 to 1e12", where,
          rope_theta);
  require(rms_norm_eps >= 0 && rms_norm_eps <= 1, "{}: rms_norm_eps = {}: expected 0 to 1", where,
          rms_norm_eps);
  require(num_heads % num_kv_heads == 0, "{}: {} heads are not a multiple of {} kv_heads", where, num_heads,
          num_kv_heads);
  require(head_dim % 2 == 0, "{}: head_dim {} is odd; rotary embedding turns pairs of channels", where,
          head_dim);
}

void ModelConfig::check(const std::string& where) const {
  check_sizes(where);
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

}  // namespace wuneng

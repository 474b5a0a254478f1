#include "model/mixers/registry.h"

#include <algorithm>
#include <deque>

namespace wuneng {
namespace {

std::deque<MixerType>& types() {  // a deque: references stay
  static std::deque<MixerType> all = {attention_mixer(), wuneng_mixer(), rwkv7_mixer()};
  return all;
}

const MixerType* find(const std::string& name) {
  const auto it = std::find_if(types().begin(), types().end(), [&](const MixerType& t) {
    return t.name == name || (!name.empty() && t.former_name == name);
  });
  return it == types().end() ? nullptr : &*it;
}

}  // namespace

const MixerType& mixer_type(const std::string& name, const std::string& where) {
  const MixerType* type = find(name);
  require(type != nullptr, "{}: unknown mixer '{}': expected one of {}", where, name,
          fmt::join(mixer_names(), ", "));
  return *type;
}

std::vector<std::string> mixer_names() {
  std::vector<std::string> out;
  for (const MixerType& type : types()) out.push_back(type.name);
  return out;
}

void register_mixer(MixerType type) {
  require(find(type.name) == nullptr, "mixer '{}' is registered already", type.name);
  types().push_back(std::move(type));
}

OptionValue default_option(const MixerType& type, const std::string& preset, const Option& option,
                           const ModelConfig& shape, const OptionValues& before) {
  if (type.presets.empty()) return option.fallback(shape, before);
  const auto chosen = std::find_if(type.presets.begin(), type.presets.end(), [&](const Preset& p) {
    return p.name == (preset.empty() ? type.presets.front().name : preset);
  });
  require(chosen != type.presets.end(), "mixer {}: unknown preset '{}'", type.name, preset);
  const auto own = chosen->defaults.find(option.name);
  return own == chosen->defaults.end() ? option.fallback(shape, before) : own->second(shape, before);
}

OptionValues default_options(const MixerType& type, const std::string& preset, const ModelConfig& shape,
                             const OptionValues& given) {
  OptionValues values;
  for (const Option& option : type.options) {
    const auto it = given.find(option.name);
    values[option.name] =
        it == given.end() ? default_option(type, preset, option, shape, values) : it->second;
  }
  return values;
}

}  // namespace wuneng

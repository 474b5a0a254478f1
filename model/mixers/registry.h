// The mixers by name. A new one: its file in model/mixers/, and a line each here and in registry.cpp
// (docs/extending.md, "Add a mixer").
#pragma once
#include "model/mixer.h"

namespace wuneng {

MixerType attention_mixer();
MixerType wuneng_mixer();
MixerType rwkv7_mixer();

// Throws for an unknown name, with those that are known; `where` names the file, recipe or key.
const MixerType& mixer_type(const std::string& name, const std::string& where);
std::vector<std::string> mixer_names();
// A mixer that the program does not have, such as a test's. Throws where the name is taken.
void register_mixer(MixerType type);

// All options of a mixer: `given` where it has one, else the preset's (empty: the first), else the default.
OptionValues default_options(const MixerType& type, const std::string& preset, const ModelConfig& shape,
                             const OptionValues& given = {});
// One option's, after those in `before`.
OptionValue default_option(const MixerType& type, const std::string& preset, const Option& option,
                           const ModelConfig& shape, const OptionValues& before);

}  // namespace wuneng

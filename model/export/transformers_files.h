// With what transformers loads a model that Hugging Face's library does not know: the Python files beside the
// weights, and the entry auto_map of config.json that names their classes.
#pragma once
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "model/config.h"

namespace wuneng {

// The files of this folder, which the build puts into the program: name -> content.
const std::map<std::string, std::string_view>& transformers_files();

// Does transformers need them? Not for a model of attention alone, which is one of its own.
bool needs_transformers_files(const ModelConfig& config);
// {"AutoConfig": "configuration_wuneng.WunengConfig", "AutoModelForCausalLM": ...}.
nlohmann::json auto_map(const ModelConfig& config);

}  // namespace wuneng

#include <nlohmann/json.hpp>

#include "model/export/transformers_files.h"
#include "runtime/error.h"

namespace wuneng {

bool needs_transformers_files(const ModelConfig& config) { return !config.is_plain(); }

nlohmann::json auto_map(const ModelConfig& config) {
  const std::string ending = "ForCausalLM", model = config.architecture();
  WUNENG_ASSERT(model.ends_with(ending));
  const std::string name = model.substr(0, model.size() - ending.size());
  return {{"AutoConfig", "configuration_wuneng." + name + "Config"},
          {"AutoModelForCausalLM", "modeling_wuneng." + model}};
}

}  // namespace wuneng

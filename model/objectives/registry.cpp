#include "model/objectives/objectives.h"

namespace wuneng {

std::map<std::string, ObjectiveMaker>& objective_registry() {
  static std::map<std::string, ObjectiveMaker> registry = {
      {"kl", make_kl_objective},   {"reverse_kl", make_reverse_kl_objective},
      {"jsd", make_jsd_objective}, {"align", make_align_objective},
      {"ce", make_ce_objective},   {"dpo", make_dpo_objective},
  };
  return registry;
}

}  // namespace wuneng

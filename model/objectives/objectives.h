// The makers of the objectives of this folder; registry.cpp gives them their names.
#pragma once
#include "model/objectives/objective.h"

namespace wuneng {

std::unique_ptr<Objective> make_kl_objective(const LossOptions& options);
std::unique_ptr<Objective> make_reverse_kl_objective(const LossOptions& options);
std::unique_ptr<Objective> make_jsd_objective(const LossOptions& options);
std::unique_ptr<Objective> make_align_objective(const LossOptions& options);
std::unique_ptr<Objective> make_ce_objective(const LossOptions& options);
std::unique_ptr<Objective> make_dpo_objective(const LossOptions& options);

}  // namespace wuneng

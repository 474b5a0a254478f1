// The layouts and devices under which `wuneng verify` runs a recipe's step.
#pragma once
#include "launch/train/recipe.h"

namespace wuneng {

// A recipe whose step is compared with the reference's.
struct VerifiedLayout {
  std::string name;                   // "tp 2 pp 2"
  std::optional<TrainRecipe> recipe;  // none where the models cannot run so ...
  std::string left_out;               // ... and why
  int ranks() const {
    return recipe->layout.size() + (recipe->teacher_layout ? recipe->teacher_layout->size() : 0);
  }
};

struct VerifiedLayouts {
  TrainRecipe reference;  // one rank, teacher colocated, nothing recomputed, 1F1B
  std::vector<VerifiedLayout> compared;
  int64_t micro_batches;  // of a step, over all replicas
};

// All layouts of degrees 1 and 2, and of one degree alone up to `ranks`, that need at most so many ranks; a
// teacher on ranks of its own; one rank on the CPU where the recipe's device is a GPU; and the recipe's own
// layout. They have the recipe's schedule where pp > 1 and its other settings. micro_batches: 0: the least
// common multiple of all dp, at least 2. Throws where the recipe itself is wrong, or the number has no equal
// parts for each dp.
VerifiedLayouts verified_layouts(const std::string& path, const std::vector<std::string>& overrides,
                                 int ranks, int64_t micro_batches);

}  // namespace wuneng

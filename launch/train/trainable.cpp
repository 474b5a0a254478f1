#include "launch/train/trainable.h"

#include <fnmatch.h>

#include <algorithm>

namespace wuneng {
namespace {

bool matches(const std::vector<std::string>& patterns, const Parameter& p) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), p.name.c_str(), 0) == 0;
  });
}

}  // namespace

void choose_trainable(const TrainRecipe& recipe, const Parameters& parameters) {
  for (Parameter* p : parameters) {
    p->trainable =
        matches(recipe.objective->trains(), *p) && matches(recipe.train, *p) && !matches(recipe.freeze, *p);
    if (!p->trainable) p->var = Var(p->var.value(), false);
  }
}

void check_trainable(const TrainRecipe& recipe, const Parameters& parameters, const Comm& ranks) {
  const auto any = [&](const char* what, const auto& condition) {
    const bool here = std::any_of(parameters.begin(), parameters.end(), condition);
    return ranks.all_reduce(here, Reduce::max, what) > 0;
  };
  const auto require_matches = [&](const char* key, const std::vector<std::string>& patterns) {
    for (const std::string& pattern : patterns)
      require(any("patterns of parameters", [&](const Parameter* p) { return matches({pattern}, *p); }),
              "{}: {}: no parameter matches '{}'", recipe.path, key, pattern);
  };
  require_matches("student.train", recipe.train);
  require_matches("student.freeze", recipe.freeze);
  require(any("trainable parameters", [](const Parameter* p) { return p->trainable; }),
          "{}: student.train, student.freeze: expected a parameter to train, found none of those that the "
          "objective has a gradient for ({})",
          recipe.path, fmt::join(recipe.objective->trains(), ", "));
}

}  // namespace wuneng

#include "model/recompute.h"

#include <algorithm>

#include "runtime/error.h"

namespace wuneng {

const std::vector<std::string>& recompute_names() {
  static const std::vector<std::string> names = {"none", "mixer", "mlp", "mixer+mlp", "layer"};
  return names;
}

Recompute recompute_named(const std::string& name) {
  const auto& names = recompute_names();
  const auto found = std::find(names.begin(), names.end(), name);
  WUNENG_ASSERT(found != names.end());
  return static_cast<Recompute>(found - names.begin());
}

double repeated_forwards(Recompute r) {
  switch (r) {
    case Recompute::none:
      return 0;
    case Recompute::mixer:
    case Recompute::mlp:
      return 0.5;
    case Recompute::parts:
    case Recompute::layer:
      return 1;
  }
  fail("unknown recomputation {}", static_cast<int>(r));
}

}  // namespace wuneng

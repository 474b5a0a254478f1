#include "tests/unit/golden.h"

#include <cstdlib>

namespace wuneng {

std::string golden(const std::string& name) {
  const char* at = std::getenv("WUNENG_GOLDEN");
  return (at ? at : WUNENG_GOLDEN) + ("/" + name);
}

}  // namespace wuneng

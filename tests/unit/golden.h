// The path of tests/golden: in the source tree, or in a bundle (launch/bundle --tests), which sets
// WUNENG_GOLDEN.
#pragma once
#include <cstdlib>
#include <string>

namespace wuneng {

inline std::string golden(const std::string& name) {
  const char* at = std::getenv("WUNENG_GOLDEN");
  return (at ? at : WUNENG_GOLDEN) + ("/" + name);
}

}  // namespace wuneng

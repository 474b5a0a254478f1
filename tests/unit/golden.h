// The path of tests/golden: in the source tree, or in a bundle (launch/bundle --tests), which sets
// WUNENG_GOLDEN.
#pragma once
#include <string>

namespace wuneng {

// The path of the file or folder `name` in tests/golden.
std::string golden(const std::string& name);

}  // namespace wuneng

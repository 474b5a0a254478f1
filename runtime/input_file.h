// Small files that a user names: recipes and configurations.
#pragma once
#include <cstdint>
#include <string>

namespace wuneng {

// The content of a regular file of 1 to `most` bytes. Throws with the path, what was expected (`expected`,
// such as "a recipe in TOML") and what is there: nothing, a directory, a pipe, an empty or a larger file.
std::string read_input_file(const std::string& path, const std::string& expected,
                            int64_t most = int64_t{64} << 20);

}  // namespace wuneng

// What must be the same of a file that one run has made and another uses: of which data and model it is.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace wuneng {

struct IdentityField {
  std::string key, value, what;  // what: says to the user what the value is
};

// Throws where `found` (key -> value) differs from a field, with that field. where: the file, and the
// recipe's key; hint: what to do.
inline void require_identity(const std::vector<IdentityField>& fields,
                             const std::map<std::string, std::string>& found, const std::string& where,
                             const std::string& hint) {
  for (const auto& [key, value, what] : fields) {
    const auto at = found.find(key);
    const std::string is = at == found.end() ? "" : at->second;
    require(is == value, "{}: {}: expected {}, \"{}\", found \"{}\" ({})", where, key, what, value, is, hint);
  }
}

}  // namespace wuneng

// A limit on the nesting depth of JSON from files.
//
// Copying and serialising a JSON value recurses, so a file of a hundred thousand brackets would overflow the
// stack. Code that parses external JSON checks this first.
#pragma once
#include <string_view>

namespace wuneng {

constexpr int kDeepestJson = 200;  // brackets; models' and data sets' files have fewer than 20

// Whether more than kDeepestJson brackets are open at any point, not counting brackets in strings. For text
// that is not JSON the result is unspecified.
bool json_too_deep(std::string_view text);

}  // namespace wuneng

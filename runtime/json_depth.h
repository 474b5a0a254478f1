// A bound on how deep JSON from outside may be nested.
//
// Copying and writing out a JSON value recurses, so a file of a hundred thousand brackets would end the
// program without a word. What reads JSON that others wrote asks here first.
#pragma once
#include <string_view>

namespace wuneng {

constexpr int kDeepestJson = 200;  // brackets; models' and data sets' files have fewer than 20

// Whether more than kDeepestJson brackets are open at once, in one pass over the text; brackets in strings do
// not count. Of text that is no JSON the answer may be either.
bool json_too_deep(std::string_view text);

}  // namespace wuneng

// Which of some words a misspelt one may be meant for.
#pragma once
#include <string>
#include <vector>

namespace wuneng {

// The word of the fewest changed letters from `word`; empty where all need more than a third of its letters,
// or more than two of a short one.
std::string nearest_word(const std::string& word, const std::vector<std::string>& words);

}  // namespace wuneng

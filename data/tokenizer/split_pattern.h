// Patterns of a tokenizer.json, which `tokenizers` gives to Oniguruma (Ruby's syntax, Unicode 16), in the
// syntax of PCRE2.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace wuneng {

// The pattern in PCRE2's syntax with the same matches. Understood are characters, classes, groups,
// alternatives, look-around, repetitions, \s \S \d \p{L} \p{N} and the other general categories in the
// source. Classes are written out so that they do not depend on the version of Unicode that PCRE2 has.
// Whatever else is in the pattern, or could mean something else to PCRE2, is an Error that names it; `where`
// begins it.
std::string pcre2_pattern(std::string_view oniguruma, const std::string& where);

// The characters that Unicode 15 and 16 added to a general category (L, M, P, S, or a part as \p{..} has it),
// in order. Ranges that touch are one: in a class, a character that is in none of them costs the time of all.
std::vector<std::pair<uint32_t, uint32_t>> later_characters(std::string_view category);

// The pattern of this very text.
std::string literal_pattern(std::string_view text);

}  // namespace wuneng

// Patterns of a tokenizer.json, which `tokenizers` gives to Oniguruma (Ruby's syntax, Unicode 16), in the
// syntax of PCRE2.
#pragma once
#include <string>
#include <string_view>

namespace wuneng {

// The pattern in PCRE2's syntax with the same matches. Understood are characters, classes, groups,
// alternatives, look-around, repetitions, \s \S \d \p{L} \p{N} and the other general categories in the
// source. Classes are written out so that they do not depend on the version of Unicode that PCRE2 has.
// Whatever else is in the pattern, or could mean something else to PCRE2, is an Error that names it; `where`
// begins it.
std::string pcre2_pattern(std::string_view oniguruma, const std::string& where);

// The pattern of this very text.
std::string literal_pattern(std::string_view text);

}  // namespace wuneng

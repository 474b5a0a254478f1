// UTF-8 that may be broken, read as Python's bytes.decode("utf-8", errors="replace") reads it.
#pragma once
#include <string>
#include <string_view>

namespace wuneng {

// Valid text with every maximal ill-formed part of the input as one U+FFFD: "a valid beginning of a character
// that does not go on" counts as one part, any other byte that fits nowhere as one each (Unicode's
// recommended practice; CPython and Rust's from_utf8_lossy do the same, WHATWG as well). So E2 82 | 41 gives
// one U+FFFD and "A", ED A0 80 (a surrogate) gives three. Valid input comes back as it is; otherwise the
// result lies in buffer.
std::string_view replace_invalid_utf8(std::string_view text, std::string& buffer);

// Appends a character's bytes.
void append_utf8(char32_t character, std::string& text);

// The character at text[at] and at moved behind it; text must be valid.
char32_t next_utf8(std::string_view text, size_t& at);

}  // namespace wuneng

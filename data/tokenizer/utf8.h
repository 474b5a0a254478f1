// Checking UTF-8, and decoding it where it is invalid like Python's bytes.decode("utf-8", errors="replace").
#pragma once
#include <string>
#include <string_view>

namespace wuneng {

// Index of the first byte of the first ill-formed part; text.size() if there is none.
size_t find_invalid_utf8(std::string_view text);

// Replaces every maximal ill-formed part by U+FFFD: a truncated character is one part, any other invalid byte
// is one part each (Unicode's recommended practice, as in CPython, Rust's from_utf8_lossy and WHATWG). So E2
// 82 | 41 becomes one U+FFFD and "A", ED A0 80 (a surrogate) three. Returns the text itself if it is valid,
// else a view of buffer.
std::string_view replace_invalid_utf8(std::string_view text, std::string& buffer);

// Bytes at the end of the text that may be the beginning of a character; 0 where it ends with a whole one or
// with what no further byte makes valid.
size_t unfinished_utf8(std::string_view text);

// Appends the bytes of a character.
void append_utf8(char32_t character, std::string& text);

// Returns the character at text[at] and advances at; text must be valid.
char32_t next_utf8(std::string_view text, size_t& at);

}  // namespace wuneng

// GPT-2's byte alphabet: how a vocabulary file writes a token's bytes as printable characters (0x20 as
// U+0120).
//
// Bytes 21..7E, A1..AC and AE..FF are the characters with that code; the others, in order, U+0100, U+0101,
// ...
#pragma once
#include <array>
#include <string>
#include <string_view>

namespace wuneng {

// byte -> its character
const std::array<char32_t, 256>& byte_alphabet();

// The bytes of a token of the vocabulary file; a token with a character outside the alphabet (only added
// tokens have one) is returned unchanged, as `tokenizers` does.
std::string token_bytes(std::string_view token);

// The inverse: bytes as the vocabulary file writes them.
std::string byte_level(std::string_view bytes);

}  // namespace wuneng

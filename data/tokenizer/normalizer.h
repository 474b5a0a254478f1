// NFC as `tokenizers` computes it, by ICU.
#pragma once
#include <string>
#include <string_view>

namespace wuneng {

// Valid UTF-8 in Unicode's normal form C; comes back as it is where a quick look shows that nothing can
// change, otherwise the result lies in buffer.
//
// `tokenizers` normalises with Unicode 9's tables (its crate unicode-normalization-alignments): characters
// that came later neither compose nor move. A newer library left alone would reorder and compose them.
std::string_view nfc(std::string_view text, std::string& buffer);

}  // namespace wuneng

// NFC as `tokenizers` computes it, by ICU.
#pragma once
#include <string>
#include <string_view>

namespace wuneng {

// Normalises valid UTF-8 to NFC. Returns the text itself if a quick check shows that it cannot change, else a
// view of buffer.
//
// `tokenizers` uses the tables of Unicode 9 (its crate unicode-normalization-alignments): characters of later
// versions are neither composed nor reordered. ICU with newer tables would do that, so it is prevented here.
std::string_view nfc(std::string_view text, std::string& buffer);

}  // namespace wuneng

// Text in any encoding as UTF-8.
#pragma once
#include <memory>
#include <string>

#include "data/text/byte_stream.h"

namespace wuneng {

// The file's text in UTF-8, without a byte order mark, unpacked. A byte order mark decides (UTF-8, UTF-16,
// UTF-32); a file without one has the encoding with the given name, one of ICU's ("utf-16le", "latin1",
// "windows-1252", "gb18030"), or is taken for UTF-8 as it is, without a check, if the name is empty. Bytes
// that are ill-formed in another encoding than UTF-8 are an error that names the file.
std::unique_ptr<PeekStream> open_text(const std::string& path, const std::string& encoding);

// Throws an Error unless ICU knows the name; empty is known.
void check_encoding(const std::string& encoding);

// Whether the bytes begin with the byte order mark of UTF-16 or UTF-32.
bool has_wide_mark(std::string_view begin);

}  // namespace wuneng

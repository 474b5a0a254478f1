// Whether a file is what it is taken for, by its name and its beginning, before any work starts.
#pragma once
#include <string>

namespace wuneng {

// by_name: JSON lines if is_json_name (data/text/file_kind.h), else text. The others take a file for what
// they say whatever its name.
enum class TextFormat { by_name, text, json_lines };

// Throws an Error that says what to do for what is no text in that encoding, JSON that is one list and no
// lines, and by_name also for tables and documents by their endings, and for JSON lines under another name.
void check_text_file(const std::string& path, TextFormat format, const std::string& encoding);

// The same for a file whose bytes are taken as they are: an Error for a packed one, UTF-16 or UTF-32 with a
// byte order mark, and a kind of file that is no text.
void check_plain_text_file(const std::string& path);

}  // namespace wuneng

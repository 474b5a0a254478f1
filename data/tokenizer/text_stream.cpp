#include "data/tokenizer/text_stream.h"

#include <algorithm>

#include "data/tokenizer/utf8.h"
#include "runtime/error.h"

namespace wuneng {

TextStream::TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    require(!stop.empty(), "stop: expected strings of at least one character, found an empty one");
    require(find_invalid_utf8(stop) == stop.size(), "stop: expected UTF-8, found other bytes");
  }
}

size_t TextStream::possible_stop() const {
  size_t longest = 0;
  for (const std::string& stop : stops_)
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n)
      if (held_.ends_with(std::string_view(stop).substr(0, n))) longest = n;
  return longest;
}

// What is left behind the bytes begins with the first byte of a character, or is a character's beginning: an
// ill-formed part in front of it is whole.
std::string TextStream::give_out(size_t bytes) {
  std::string buffer, text(replace_invalid_utf8(std::string_view(held_).substr(0, bytes), buffer));
  held_.erase(0, bytes);
  given_out_ += bytes;
  return text;
}

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return "";
  held_ += bytes;
  // A stop string begins in what is held: it was kept back there.
  size_t begin = held_.npos, end = held_.npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == held_.npos) continue;
    const size_t after = at + stop.size();
    if (after < end || (after == end && at < begin)) begin = at, end = after;
  }
  if (end != held_.npos) {
    stopped_ = true;
    std::string text = give_out(begin);
    held_.clear();
    return text;
  }
  return give_out(held_.size() - std::max(possible_stop(), unfinished_utf8(held_)));
}

std::string TextStream::finish() { return give_out(held_.size()); }

}  // namespace wuneng

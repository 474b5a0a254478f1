// TextStream: the bytes of generated tokens to text as they come. Text is given out when no later token can
// change it: whole characters of UTF-8 alone, and nothing that may be the beginning of a stop string.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace wuneng {

class TextStream {
 public:
  // stops: strings of valid UTF-8 that end the text and do not belong to it; none of them empty.
  explicit TextStream(std::vector<std::string> stops = {});

  // Appends a token's bytes and returns the text that is certain now. Where they complete a stop string, that
  // is all text before it, and stopped() is true from now on; further bytes are ignored. Of several stop
  // strings the one that ends first counts, of those that end together the longest, so that the text does not
  // depend on how it is split into tokens.
  std::string push(std::string_view bytes);
  // No more tokens: the text that was held back. A character that is not whole becomes U+FFFD, as every other
  // ill-formed part does before (replace_invalid_utf8).
  std::string finish();
  bool stopped() const { return stopped_; }
  // Bytes of all tokens up to which text has been given out. After a stop it does not move.
  size_t given_out() const { return given_out_; }

 private:
  std::string give_out(size_t bytes);
  size_t possible_stop() const;  // bytes at the end of held_ that begin a stop string

  std::vector<std::string> stops_;
  std::string held_;
  size_t given_out_ = 0;
  bool stopped_ = false;
};

}  // namespace wuneng

// Qwen2.5's tokenizer: text to tokens and back, with the same ids as Hugging Face's `tokenizers`.
//
//   text -> valid UTF-8 (utf8.h) -> split at added tokens (added_tokens.h); each piece between them ->
//   NFC (normalizer.h) -> words (pretokenizer.h) -> byte pairs by rank (byte_pairs.h, word_cache.h)
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng {

class Tokenizer {
 public:
  // From a model's directory, see tokenizer_files.h. Throws for any scheme other than Qwen2.5's.
  static Tokenizer load(const std::string& directory);

  // Appends the ids of the text. Thread-safe. Invalid UTF-8 is read as U+FFFD, see utf8.h. Memory: a few
  // times the longest word and, if NFC changes the text, the size of the text.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

  // Returns valid UTF-8: an incomplete character becomes U+FFFD. Ids without a token (padding rows of the
  // embedding) are skipped, as in `tokenizers`.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // The bytes of the token, not always valid UTF-8; empty for ids without a token.
  std::string_view bytes_of(int32_t id) const;

  bool is_special(int32_t id) const;

  int32_t vocab_size() const;  // highest id + 1
  // Id of an added token, or of a token as the vocabulary file writes it (byte_level.h).
  std::optional<int32_t> id_of(std::string_view token) const;
  // Hash of tokens, merges and added tokens, independent of the format of the files.
  uint64_t fingerprint() const;

 private:
  struct Parts;
  explicit Tokenizer(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

  std::shared_ptr<const Parts> parts_;  // immutable, shared by copies
};

}  // namespace wuneng

// Tokenizers of byte-level byte pairs (GPT-2, Llama 3, Qwen, SmolLM2, ...): text to tokens and back, with the
// same ids as Hugging Face's `tokenizers`.
//
//   text -> valid UTF-8 (utf8.h) -> split at added tokens (added_tokens.h); each piece between them ->
//   NFC or nothing (normalizer.h) -> split at added tokens of normalised text -> words (pretokenizer.h) ->
//   byte pairs by rank (byte_pairs.h, word_cache.h)
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng {

// A part of a longer text, and whether its tokens are marked.
struct MarkedText {
  std::string_view text;
  bool marked;
};

class Tokenizer {
 public:
  // From a model's directory, see tokenizer_files.h. Throws for what this code does not know.
  static Tokenizer load(const std::string& directory);

  // Appends the ids of the text. Thread-safe. Invalid UTF-8 is read as U+FFFD, see utf8.h. Memory: a few
  // times the longest word and, if NFC changes the text, the size of the text.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

  // Appends the ids of the parts as one text, and for each whether a byte of it is in a marked part.
  void encode_marked(std::span<const MarkedText> parts, std::vector<int32_t>& ids,
                     std::vector<uint8_t>& marked) const;

  // The tokens that the post-processor puts before and after a text (Llama 3's <|begin_of_text|>), which
  // `tokenizers` adds with add_special_tokens and encode() never does.
  const std::vector<int32_t>& before() const;
  const std::vector<int32_t>& after() const;

  // Returns valid UTF-8: an incomplete character becomes U+FFFD. Ids without a token (padding rows of the
  // embedding) are skipped, as in `tokenizers`.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // The bytes of the token, not always valid UTF-8; empty for ids without a token.
  std::string_view bytes_of(int32_t id) const;

  bool is_special(int32_t id) const;

  int32_t vocab_size() const;  // highest id + 1
  // Id of an added token, or of a token as the vocabulary file writes it (byte_level.h).
  std::optional<int32_t> id_of(std::string_view token) const;
  // Hash of all that makes ids of a text, independent of the format of the files.
  uint64_t fingerprint() const;

 private:
  struct Parts;
  explicit Tokenizer(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

  std::shared_ptr<const Parts> parts_;  // immutable, shared by copies
};

}  // namespace wuneng

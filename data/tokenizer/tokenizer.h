// Text to tokens and back, exactly as Qwen2.5 reads text: the ids are those of Hugging Face's `tokenizers`.
//
//   text -> valid UTF-8 (utf8.h) -> added tokens cut out (added_tokens.h); each piece between them ->
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
  // From a model's directory, see tokenizer_files.h. Any scheme other than Qwen2.5's is refused.
  static Tokenizer load(const std::string& directory);

  // Appends the text's ids. Threads may call it at once. Broken UTF-8 counts as U+FFFD, see utf8.h. Takes a
  // few times the text's longest word and, where NFC changes the text, its size in memory.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

  // Valid UTF-8: what tokens cut out of a character give is U+FFFD. Ids without a token (the padding of the
  // embedding's rows) give nothing, as in `tokenizers`.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // The bytes that the id stands for, not always valid UTF-8; empty for ids without a token.
  std::string_view bytes_of(int32_t id) const;

  int32_t vocab_size() const;  // highest id + 1
  // Of an added token, or of a token as the vocabulary file writes it (byte_level.h).
  std::optional<int32_t> id_of(std::string_view token) const;
  // Equal where ids are: of the tokens, merges and added tokens, not of the files' form.
  uint64_t fingerprint() const;

 private:
  struct Parts;
  explicit Tokenizer(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

  std::shared_ptr<const Parts> parts_;  // never changes; copies share it
};

}  // namespace wuneng

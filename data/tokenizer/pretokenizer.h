// Splits normalised text into the words that byte pairs are merged in: Qwen2.5's pattern, by PCRE2's JIT.
#pragma once
#include <memory>
#include <string_view>

namespace wuneng {

// As in tokenizer.json.
extern const std::string_view kQwenPattern;

// Per-thread scratch memory of PCRE2.
class PretokenizerScratch {
 public:
  PretokenizerScratch();
  ~PretokenizerScratch();
  PretokenizerScratch(const PretokenizerScratch&) = delete;
  PretokenizerScratch& operator=(const PretokenizerScratch&) = delete;

 private:
  friend class Words;
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// Iterates over the words of valid UTF-8; their concatenation is the text.
//   for (Words words(text, scratch); words.next(word);) ...
class Words {
 public:
  Words(std::string_view text, PretokenizerScratch& scratch) : text_(text), scratch_(scratch) {}
  bool next(std::string_view& word);

 private:
  std::string_view text_;
  size_t at_ = 0;
  PretokenizerScratch& scratch_;
};

}  // namespace wuneng

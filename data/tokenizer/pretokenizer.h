// Splits normalised text into the words that byte pairs are merged in: the pre-tokenizer of a tokenizer.json,
// by PCRE2's JIT.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng {

// In the syntax of tokenizer.json (data/tokenizer/split_pattern.h).
extern const std::string_view kQwenPattern, kGpt2Pattern, kDigitsPattern;

// Splits each piece that the step before leaves. What the pattern matches is a piece, and so is what lies
// between two matches; without a pattern nothing is split.
struct PretokenizerStep {
  std::string pattern;
  bool prefix_space = false;  // a piece that does not begin with a space gets one before it is split
  bool operator==(const PretokenizerStep&) const = default;
};

// Per-thread scratch memory.
class PretokenizerScratch {
 public:
  PretokenizerScratch();
  ~PretokenizerScratch();
  PretokenizerScratch(const PretokenizerScratch&) = delete;
  PretokenizerScratch& operator=(const PretokenizerScratch&) = delete;

 private:
  friend class Pretokenizer;
  friend class Words;
  struct Parts;
  struct Piece {
    std::string_view text;
    size_t at = 0;  // of it is split
  };
  std::unique_ptr<Parts> parts_;
  std::vector<Piece> pieces_;  // of each step but the last one
  std::string prefixed_;
};

// Immutable and thread-safe.
class Pretokenizer {
 public:
  // prefix_space: of the last step only. `source` is the file that errors name: a pattern that is not
  // understood, or that matches nothing at some place.
  Pretokenizer(const std::vector<PretokenizerStep>& steps, const std::string& source);

 private:
  friend class Words;
  // Bytes of the first word of text[at, end), which is not empty: a match, or what lies before the next one.
  size_t word_length(size_t step, std::string_view text, size_t at, PretokenizerScratch& scratch) const;

  // PCRE2's code of a step. Where words follow each other, `here` finds them faster than `anywhere`.
  struct Code {
    std::shared_ptr<const void> here, anywhere;  // nullptr: no pattern
  };
  std::vector<Code> codes_;
  bool prefix_space_ = false;
};

// Iterates over the words of valid UTF-8. Their concatenation is the text, but for added spaces.
//   for (Words words(pretokenizer, text, scratch); words.next();) ... words.word()
class Words {
 public:
  Words(const Pretokenizer& pretokenizer, std::string_view text, PretokenizerScratch& scratch);
  bool next() {
    at_ += word_.size();
    if (at_ == text_.size() && !next_piece()) return false;
    word_ = text_.substr(at_, pretokenizer_.word_length(last_, text_, at_, scratch_));
    return true;
  }
  std::string_view word() const { return word_; }
  // Bytes at the beginning of the word that are not in the text: 0, or 1 for an added space.
  size_t added() const { return at_ == 0 ? added_ : 0; }

 private:
  bool next_piece();  // for the last step

  const Pretokenizer& pretokenizer_;
  PretokenizerScratch& scratch_;
  size_t last_;
  std::string_view text_, word_;
  size_t at_ = 0, added_ = 0;
  bool begun_ = false;
};

}  // namespace wuneng

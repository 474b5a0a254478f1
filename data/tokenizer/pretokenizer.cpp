#include "data/tokenizer/pretokenizer.h"

#include "data/tokenizer/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "runtime/error.h"

namespace wuneng {

const std::string_view kQwenPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// Digits are not Oniguruma's but those of Rust's standard library, Unicode 17.
const std::string_view kDigitsPattern = R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])";

namespace {

std::string message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

std::shared_ptr<const void> compiled(const std::string& pattern, const std::string& source,
                                     uint32_t options) {
  const std::string translated = pcre2_pattern(pattern, source + ": pre_tokenizer");
  int error;
  PCRE2_SIZE at;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | options, &error, &at, nullptr);
  require(code != nullptr, "{}: pre_tokenizer: PCRE2 cannot compile the pattern \"{}\": {}", source, pattern,
          message(error));
  std::shared_ptr<const void> owner(code, [code](const void*) { pcre2_code_free(code); });
  uint32_t empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &empty);
  const int jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  require(!empty, "{}: pre_tokenizer: expected a pattern that matches at least one character, found \"{}\"",
          source, pattern);
  require(jit == 0, "{}: pre_tokenizer: PCRE2 cannot compile the pattern \"{}\" to machine code: {}", source,
          pattern, message(jit));
  return owner;
}

}  // namespace

struct PretokenizerScratch::Parts {
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  // Repetitions of one class need no stack; this is ample for the rest of a pattern.
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, 1 << 20, nullptr);
};

PretokenizerScratch::PretokenizerScratch() : parts_(std::make_unique<Parts>()) {
  require(parts_->match && parts_->context && parts_->stack, "PCRE2: out of memory");
  pcre2_jit_stack_assign(parts_->context, nullptr, parts_->stack);
}

PretokenizerScratch::~PretokenizerScratch() {
  pcre2_match_data_free(parts_->match);
  pcre2_match_context_free(parts_->context);
  pcre2_jit_stack_free(parts_->stack);
}

Pretokenizer::Pretokenizer(const std::vector<PretokenizerStep>& steps, const std::string& source) {
  require(!steps.empty(), "{}: pre_tokenizer: expected at least one step, found none", source);
  for (const PretokenizerStep& step : steps) {
    WUNENG_ASSERT(!step.prefix_space || &step == &steps.back());
    codes_.emplace_back();
    if (!step.pattern.empty())
      codes_.back() = {compiled(step.pattern, source, PCRE2_ANCHORED), compiled(step.pattern, source, 0)};
  }
  prefix_space_ = steps.back().prefix_space;
}

size_t Pretokenizer::word_length(size_t step, std::string_view text, size_t at,
                                 PretokenizerScratch& scratch) const {
  const Code& code = codes_[step];
  if (!code.here) return text.size() - at;
  const PretokenizerScratch::Parts& parts = *scratch.parts_;
  const auto finds = [&](const std::shared_ptr<const void>& pattern) {
    const int found = pcre2_jit_match(static_cast<const pcre2_code*>(pattern.get()),
                                      reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, 0,
                                      parts.match, parts.context);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
      fail("PCRE2: expected a match or none at byte {} of {}, found: {}", at, text.size(), message(found));
    return found >= 0;
  };
  const PCRE2_SIZE* match = pcre2_get_ovector_pointer(parts.match);
  size_t end = text.size();
  if (finds(code.here))
    end = match[1];
  else if (finds(code.anywhere))
    end = match[0];
  WUNENG_ASSERT(end > at && end <= text.size());
  return end - at;
}

Words::Words(const Pretokenizer& pretokenizer, std::string_view text, PretokenizerScratch& scratch)
    : pretokenizer_(pretokenizer), scratch_(scratch), last_(pretokenizer.codes_.size() - 1) {
  scratch.pieces_.assign(last_ + 1, {});
  scratch.pieces_[0].text = text;
}

bool Words::next_piece() {
  auto& pieces = scratch_.pieces_;
  if (begun_ && last_ == 0) return false;
  begun_ = true;
  // The deepest step that has text left gives the next one a piece.
  size_t step = last_;
  if (last_ > 0) {
    while (step > 0 && pieces[step - 1].at == pieces[step - 1].text.size()) --step;
    if (step == 0) return false;
    for (; step <= last_; ++step) {
      auto& [text, at] = pieces[step - 1];
      const size_t length = pretokenizer_.word_length(step - 1, text, at, scratch_);
      pieces[step] = {text.substr(at, length), 0};
      at += length;
    }
  }
  text_ = pieces[last_].text;
  added_ = pretokenizer_.prefix_space_ && !text_.empty() && !text_.starts_with(' ');
  if (added_) text_ = scratch_.prefixed_.assign(1, ' ').append(text_);
  at_ = 0;
  word_ = {};
  return !text_.empty();
}

}  // namespace wuneng

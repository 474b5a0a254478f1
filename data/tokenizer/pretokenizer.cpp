#include "data/tokenizer/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string>

#include "runtime/error.h"

namespace wuneng {

const std::string_view kQwenPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

// The same pattern in PCRE2's syntax. Three classes are written out, so that they match those of `tokenizers`
// (Oniguruma, Unicode 16) for any Unicode version of PCRE2: \s is White_Space, to which PCRE2 10.42 adds
// U+180E; letters and numbers include characters that were added after Unicode 14, the version of
// PCRE2 10.42.
// clang-format off
#define SPACE R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
#define LETTER R"(\p{L})" \
  R"(\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65})" \
  R"(\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240}\x{11380}-\x{11389}\x{1138b})" \
  R"(\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{11f02})" \
  R"(\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446}\x{13460}-\x{143fa})" \
  R"(\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff}\x{1b132}\x{1b155}\x{1df25}-\x{1df2a})" \
  R"(\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739})" \
  R"(\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})"
#define NUMBER R"(\p{N})" \
  R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})" \
  R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})" \
  R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})"
constexpr char kPattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    "|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+"
    "|[" NUMBER "]"
    "| ?[^" SPACE LETTER NUMBER "]+[\\r\\n]*"
    "|[" SPACE "]*[\\r\\n]+"
    "|[" SPACE "]+(?![^" SPACE "])"
    "|[" SPACE "]+";
#undef SPACE
#undef LETTER
#undef NUMBER
// clang-format on

std::string message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// Compiled once and never freed; thread-safe for matching.
const pcre2_code* compiled() {
  static const pcre2_code* const code = [] {
    int error;
    PCRE2_SIZE at;
    // Anchored: a word begins where the previous one ended.
    pcre2_code* c = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern), sizeof kPattern - 1,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &at, nullptr);
    require(c != nullptr, "PCRE2 cannot compile the tokenizer's pattern: {} at {}", message(error), at);
    const int jit = pcre2_jit_compile(c, PCRE2_JIT_COMPLETE);
    require(jit == 0, "PCRE2 cannot compile the tokenizer's pattern to machine code: {}", message(jit));
    return c;
  }();
  return code;
}

}  // namespace

struct PretokenizerScratch::Parts {
  pcre2_match_data* match = pcre2_match_data_create_from_pattern(compiled(), nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  // Repetitions of one class need no stack; this is ample for the rest of the pattern.
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

bool Words::next(std::string_view& word) {
  if (at_ == text_.size()) return false;
  const PretokenizerScratch::Parts& parts = *scratch_.parts_;
  const int found = pcre2_jit_match(compiled(), reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), at_,
                                    0, parts.match, parts.context);
  require(found > 0, "PCRE2: expected a word at byte {} of {}, found: {}", at_, text_.size(), message(found));
  const size_t end = pcre2_get_ovector_pointer(parts.match)[1];
  WUNENG_ASSERT(end > at_ && end <= text_.size());
  word = text_.substr(at_, end - at_);
  at_ = end;
  return true;
}

}  // namespace wuneng

#include "data/tokenizer/split_pattern.h"

#include <algorithm>
#include <cctype>
#include <sstream>

#include "data/tokenizer/utf8.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

// White_Space. PCRE2 10.42's own \s has U+180E as well, \v is another class, and \S cannot be written as a
// complement inside of a class.
constexpr char kSpace[] =
    R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr char kNoSpace[] =
    R"(\x00-\x08\x0e-\x1f\x21-\x84\x86-\x9f\xa1-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e})"
    R"(\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

// Characters that Unicode 15 and 16 added to a general category. PCRE2 10.42 has the tables of Unicode 14;
// for a later PCRE2 they are in the category twice.
struct Category {
  std::string_view name;
  const char* added;  // hexadecimal
};
constexpr Category kCategories[] = {
    {"Lu", "1c89 a7cb-a7cc a7da a7dc 10d50-10d65"},
    {"Ll", "1c8a a7cd a7db 10d70-10d85 1df25-1df2a"},
    {"Lm", "10d4e 10d6f 16d40-16d42 16d6b-16d6c 1e030-1e06d 1e4eb"},
    {"Lo",
     "105c0-105f3 10d4a-10d4d 10d4f 10ec2-10ec4 1123f-11240 11380-11389 1138b 1138e "
     "11390-113b5 113b7 113d1 113d3 11bc0-11be0 11f02 11f04-11f10 11f12-11f33 1342f "
     "13441-13446 13460-143fa 16100-1611d 16d43-16d6a 18cff 1b132 1b155 1e4d0-1e4ea "
     "1e5d0-1e5ed 1e5f0 2b739 2ebf0-2ee5d 31350-323af"},
    {"M",
     "897 cf3 ece 10d69-10d6d 10efc-10eff 11241 113b8-113c0 113c2 113c5 113c7-113ca "
     "113cc-113d0 113d2 113e1-113e2 11f00-11f01 11f03 11f34-11f3a 11f3e-11f42 11f5a 13440 "
     "13447-13455 1611e-1612f 1e08f 1e4ec-1e4ef 1e5ee-1e5ef"},
    {"Nd",
     "10d40-10d49 116d0-116e3 11bf0-11bf9 11f50-11f59 16130-16139 16d70-16d79 1ccf0-1ccf9 "
     "1e4f0-1e4f9 1e5f1-1e5fa"},
    {"No", "1d2c0-1d2d3"},
    {"P",
     "1b4e-1b4f 1b7f 10d6e 113d4-113d5 113d7-113d8 11b00-11b09 11be1 11f43-11f4f 16d6d-16d6f "
     "1e5ff"},
    {"S",
     "2427-2429 2ffc-2fff 31e4-31e5 31ef 10d8e-10d8f 1cc00-1ccef 1cd00-1ceb3 1f6dc "
     "1f774-1f776 1f77b-1f77f 1f7d9 1f8b2-1f8bb 1f8c0-1f8c1 1fa75-1fa77 1fa87-1fa89 1fa8f "
     "1faad-1faaf 1fabb-1fabf 1fac6 1face-1facf 1fada-1fadc 1fadf 1fae8-1fae9 1faf7-1faf8 "
     "1fbcb-1fbef"},
    {"Lt", ""},
    {"Nl", ""},
    {"Z", ""},
    {"Zs", ""},
};

bool is_part(std::string_view category, std::string_view of) {
  return category == of || (of.size() == 1 && category.starts_with(of));
}

// The category as members of a PCRE2 class; empty if it is not known.
std::string category(std::string_view name) {
  if (std::none_of(std::begin(kCategories), std::end(kCategories),
                   [&](const Category& c) { return is_part(c.name, name); }))
    return "";
  std::string members = fmt::format("\\p{{{}}}", name);
  for (const auto& [first, last] : later_characters(name))
    members += first == last ? fmt::format("\\x{{{:x}}}", first)
                             : fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", first, last);
  return members;
}

class Translation {
 public:
  Translation(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  std::string pattern() {
    alternatives();
    if (at_ < pattern_.size()) refuse("a parenthesis that is not open", 1);
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const char* what, size_t size) const {
    fail(
        "{}: expected a pattern of characters, classes, groups and repetitions, found {}, \"{}\", at byte {} "
        "of \"{}\"",
        where_, what, pattern_.substr(at_, size), at_, pattern_);
  }
  bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    at_ += text.size();
    return true;
  }

  void alternatives() {
    ++depth_;
    if (depth_ > kDeepest) refuse("groups nested too deep", 1);
    while (at_ < pattern_.size() && !next_is(")")) {
      if (take("|")) {
        out_ += '|';
      } else {
        element();
        repetition();
      }
    }
    --depth_;
  }

  void element() {
    const char c = pattern_[at_];
    if (c == '(') return group();
    if (c == '[') return character_class();
    if (c == '\\') return escape(false);
    if (c == '^' || c == '$') refuse("an anchor", 1);  // of a line, in Ruby
    if (c == '.') refuse("any character", 1);
    if (c == '*' || c == '+' || c == '?' || c == '{') refuse("a repetition of nothing", 1);
    character();
  }

  // One character; ASCII other than letters, digits and space is escaped, which PCRE2 always allows.
  void character() {
    const size_t begin = at_;
    const char32_t c = next_utf8(pattern_, at_);
    if (c < 0x20 || c == 0x7f) {
      out_ += fmt::format("\\x{{{:x}}}", static_cast<uint32_t>(c));
      return;
    }
    const bool plain =
        c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!plain) out_ += '\\';
    out_ += pattern_.substr(begin, at_ - begin);
  }

  void group() {
    static constexpr std::string_view kKinds[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    if (next_is("(?i:")) return case_insensitive();
    if (next_is("(?")) {
      const auto* kind =
          std::find_if(std::begin(kKinds), std::end(kKinds), [&](auto k) { return next_is(k); });
      if (kind == std::end(kKinds)) refuse("an option or a kind of group", 4);
      at_ += kind->size();
      out_ += *kind;
    } else {
      if (next_is("(*")) refuse("a verb", 2);
      ++at_;
      out_ += "(?:";
    }
    alternatives();
    if (!take(")")) refuse("a group without an end", 1);
    out_ += ')';
  }

  // Oniguruma also folds one character to several ("ss" and U+00DF), PCRE2 does not: such pairs are refused.
  void case_insensitive() {
    out_ += "(?i:";
    at_ += 4;
    for (; at_ < pattern_.size() && !next_is(")"); ++at_) {
      const char c = pattern_[at_];
      for (const std::string_view pair : {"ss", "ff", "fi", "fl", "st"})
        if (at_ + 1 < pattern_.size() && (c | 0x20) == pair[0] && (pattern_[at_ + 1] | 0x20) == pair[1])
          refuse("letters that are one character in some case", 2);
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (!letter && c != '|' && c != '\'') refuse("other than letters and apostrophes in any case", 1);
      out_ += c;
    }
    if (!take(")")) refuse("a group without an end", 1);
    out_ += ')';
  }

  void character_class() {
    ++at_;
    out_ += '[';
    if (take("^")) out_ += '^';
    if (next_is("]")) refuse("an empty class", 1);
    while (!next_is("]")) {
      if (at_ >= pattern_.size()) refuse("a class without an end", 1);
      if (next_is("[") || next_is("&&")) refuse("a class in a class", 2);
      if (next_is("\\")) {
        escape(true);
      } else if (next_is("-") && !next_is("-]") && pattern_[at_ - 1] != '[' && pattern_[at_ - 1] != '^') {
        ++at_;
        out_ += '-';
      } else {
        character();
      }
    }
    ++at_;
    out_ += ']';
  }

  void escape(bool in_class) {
    const auto members = [&](const std::string& inside, size_t size) {
      at_ += size;
      out_ += in_class ? inside : "[" + inside + "]";
    };
    if (next_is("\\s")) return members(kSpace, 2);
    if (next_is("\\S")) return members(kNoSpace, 2);
    if (next_is("\\d")) return members(category("Nd"), 2);
    if (next_is("\\p{") || next_is("\\P{")) {
      const size_t end = std::min(pattern_.find('}', at_), pattern_.size());
      const std::string inside = category(pattern_.substr(at_ + 3, end - at_ - 3));
      if (inside.empty())
        refuse("a category other than L, M, N, P, S, Z and some parts of them", end + 1 - at_);
      if (pattern_[at_ + 1] == 'p') return members(inside, end + 1 - at_);
      if (in_class) refuse("the complement of a category in a class", end + 1 - at_);
      return members("^" + inside, end + 1 - at_);
    }
    static constexpr std::pair<char, int> kControls[] = {
        {'t', 0x09}, {'n', 0x0a}, {'v', 0x0b}, {'f', 0x0c}, {'r', 0x0d}};
    const char c = at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0';
    for (const auto& [letter, code] : kControls)
      if (c == letter) {
        at_ += 2;
        out_ += fmt::format("\\x{:02x}", code);
        return;
      }
    if (c == 'u' || c == 'x') return code_point();
    const bool punctuation = std::ispunct(static_cast<unsigned char>(c)) != 0;
    if (!punctuation) refuse("an escape", 2);
    ++at_;
    character();
  }

  // \uHHHH and \x{H...}
  void code_point() {
    const bool braces = next_is("\\x{");
    if (!braces && !next_is("\\u")) refuse("a byte", 4);
    const size_t begin = at_ + (braces ? 3 : 2);
    const size_t end = std::min(braces ? pattern_.find('}', begin) : begin + 4, pattern_.size());
    const std::string digits(pattern_.substr(begin, end - begin));
    const bool hexadecimal = digits.find_first_not_of("0123456789abcdefABCDEF") == digits.npos;
    if (!hexadecimal || digits.empty() || digits.size() > 6 || (!braces && digits.size() != 4))
      refuse("a character's code", 10);
    at_ = end + (braces ? 1 : 0);
    out_ += fmt::format("\\x{{{}}}", digits);
  }

  void repetition() {
    for (const char* sign : {"?", "*", "+"})
      if (take(sign)) {
        out_ += sign;
        for (const char* how : {"?", "+"})  // lazy, possessive
          if (take(how)) {
            out_ += how;
            break;
          }
        return more_than_once();
      }
    if (!next_is("{")) return;
    const size_t end = std::min(pattern_.find('}', at_), pattern_.size());
    const std::string_view counts = pattern_.substr(at_ + 1, end - at_ - 1);
    const bool known = !counts.empty() && counts[0] != ',' &&
                       std::count(counts.begin(), counts.end(), ',') < 2 &&
                       counts.find_first_not_of("0123456789,") == counts.npos;
    if (!known || end == pattern_.size()) refuse("a repetition other than {n}, {n,} and {n,m}", 8);
    out_ += pattern_.substr(at_, end + 1 - at_);
    at_ = end + 1;
    more_than_once();
  }
  void more_than_once() const {
    if (next_is("?") || next_is("*") || next_is("+") || next_is("{"))
      refuse("a repetition of a repetition", 2);
  }

  static constexpr int kDeepest = 50;
  std::string_view pattern_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::vector<std::pair<uint32_t, uint32_t>> later_characters(std::string_view category) {
  std::vector<std::pair<uint32_t, uint32_t>> ranges, joined;
  for (const Category& c : kCategories) {
    if (!is_part(c.name, category)) continue;
    std::istringstream added(c.added);
    for (std::string range; added >> range;) {
      const size_t dash = range.find('-');
      ranges.emplace_back(std::stoul(range.substr(0, dash), nullptr, 16),
                          std::stoul(range.substr(dash == range.npos ? 0 : dash + 1), nullptr, 16));
    }
  }
  std::sort(ranges.begin(), ranges.end());
  for (const auto& range : ranges)
    if (!joined.empty() && range.first == joined.back().second + 1)
      joined.back().second = range.second;
    else
      joined.push_back(range);
  return joined;
}

std::string pcre2_pattern(std::string_view oniguruma, const std::string& where) {
  require(find_invalid_utf8(oniguruma) == oniguruma.size(), "{}: expected UTF-8, found other bytes", where);
  return Translation(oniguruma, where).pattern();
}

std::string literal_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::ispunct(static_cast<unsigned char>(c))) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace wuneng

#include "data/text/python_json.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/error.h"

namespace wuneng {
namespace {

using Json = nlohmann::ordered_json;

// repr(): the shortest digits that read back the same, positional for exponents -4..15.
std::string python_float(double x) {
  require(std::isfinite(x), "a number in JSON: expected a finite one, found {}", x);
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, x, std::chars_format::scientific).ptr;
  const std::string scientific(digits, end);  // e.g. -1.25e-07
  const int exponent = std::stoi(scientific.substr(scientific.find('e') + 1));
  if (exponent < -4 || exponent >= 16) return scientific;
  char fixed[64];
  std::string text(fixed, std::to_chars(fixed, fixed + sizeof fixed, x, std::chars_format::fixed).ptr);
  return text.find('.') == text.npos ? text + ".0" : text;
}

void append_json(const Json& value, int indent, int level, std::string& out) {
  // A string's escapes are the same in both; U+FFFD for broken UTF-8, as the tokenizer would read it.
  const auto scalar = [&](const Json& v) { out += v.dump(-1, ' ', false, Json::error_handler_t::replace); };
  const auto line = [&](int deep) {
    if (indent > 0) out.append(1, '\n').append(static_cast<size_t>(deep) * indent, ' ');
  };
  const std::string_view separator = indent > 0 ? "," : ", ";
  bool first = true;
  const auto element = [&] {
    if (!first) out += separator;
    first = false;
    line(level + 1);
  };
  if (value.is_object()) {
    out += '{';
    for (const auto& [key, inner] : value.items()) {
      element();
      scalar(key);
      out += ": ";
      append_json(inner, indent, level + 1, out);
    }
    if (!first) line(level);
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    for (const Json& inner : value) {
      element();
      append_json(inner, indent, level + 1, out);
    }
    if (!first) line(level);
    out += ']';
  } else if (value.is_number_float()) {
    out += python_float(value.get<double>());
  } else if (value.is_binary()) {
    out.append(value.get_binary().begin(), value.get_binary().end());
  } else {
    scalar(value);
  }
}

}  // namespace

void append_python_json(const Json& value, std::string& out, int indent) {
  append_json(value, indent, 0, out);
}

}  // namespace wuneng

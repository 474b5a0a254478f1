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

}  // namespace

void append_python_json(const Json& value, std::string& out) {
  // A string's escapes are the same in both; U+FFFD for broken UTF-8, as the tokenizer would read it.
  const auto scalar = [&](const Json& v) { out += v.dump(-1, ' ', false, Json::error_handler_t::replace); };
  std::string_view separator;
  if (value.is_object()) {
    out += '{';
    for (const auto& [key, element] : value.items()) {
      out += separator;
      scalar(key);
      out += ": ";
      append_python_json(element, out);
      separator = ", ";
    }
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    for (const Json& element : value) {
      out += separator;
      append_python_json(element, out);
      separator = ", ";
    }
    out += ']';
  } else if (value.is_number_float()) {
    out += python_float(value.get<double>());
  } else if (value.is_binary()) {
    out.append(value.get_binary().begin(), value.get_binary().end());
  } else {
    scalar(value);
  }
}

}  // namespace wuneng

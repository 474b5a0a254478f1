#include "runtime/config.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <toml.hpp>

#include "runtime/error.h"
#include "runtime/input_file.h"
#include "runtime/json_depth.h"
#include "runtime/spelling.h"

namespace wuneng {
namespace {

struct Setting {
  toml::value value;
  std::string where;  // "recipe.toml:12" or "command line"
};

bool is_list_of_tables(const toml::value& value) {
  return value.is_array() && !value.as_array().empty() &&
         std::all_of(value.as_array().begin(), value.as_array().end(),
                     [](const toml::value& item) { return item.is_table(); });
}

// Settings by their full key: a.b, and a[0].b in a list of tables ([[a]]).
void flatten(const toml::value& value, const std::string& prefix, const std::string& file, bool lines,
             std::map<std::string, Setting>& out) {
  const std::string where = lines ? fmt::format("{}:{}", file, value.location().line()) : file;
  if (value.is_table()) {
    for (const auto& [key, child] : value.as_table())
      flatten(child, prefix.empty() ? key : prefix + "." + key, file, lines, out);
  } else if (is_list_of_tables(value)) {
    for (size_t i = 0; i < value.as_array().size(); ++i)
      flatten(value.as_array()[i], fmt::format("{}[{}]", prefix, i), file, lines, out);
  } else {
    const auto [at, added] = out.emplace(prefix, Setting{value, where});
    require(added, "{}: {} is set twice, here and at {}", where, prefix, at->second.where);
  }
}

// Is the key `parent` itself, or something below it?
bool is_below(const std::string& key, const std::string& parent) {
  return key.starts_with(parent) &&
         (key.size() == parent.size() || key[parent.size()] == '.' || key[parent.size()] == '[');
}

// toml11 reads a whole number beyond 64 bits as the largest or smallest one within.
bool is_beyond_64_bits(const toml::value& v) {
  return v.is_integer() && (v.as_integer() == INT64_MAX || v.as_integer() == INT64_MIN);
}

// On one line; a long one is cut.
std::string shown(const toml::value& v) {
  constexpr size_t kLongest = 80;
  std::string text;
  if (v.is_string()) {
    text = toml_string(v.as_string().str);
  } else if (v.is_array()) {
    for (const toml::value& item : v.as_array()) text += (text.empty() ? "[" : ", ") + shown(item);
    text = text.empty() ? "[]" : text + "]";
  } else if (is_beyond_64_bits(v)) {
    text = "(a number beyond 64 bits)";
  } else {
    std::ostringstream out;
    out << v;
    text = out.str();
  }
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

// Throws an error of one line.
toml::value parse_toml(const std::string& text, const std::string& name) {
  require(!json_too_deep(text), "{}: expected brackets nested at most {} deep, found deeper", name,
          kDeepestJson);
  try {
    std::istringstream in(text);
    return toml::parse(in, name);
  } catch (const toml::exception& e) {
    // "[error] toml::function: what is wrong", and then the text around it.
    std::string what = e.what();
    what.resize(std::min(what.size(), what.find('\n')));
    if (const size_t colon = what.find(": "); what.starts_with("[error]") && colon != std::string::npos)
      what.erase(0, colon + 2);
    fail("{}:{}: not TOML: {}", name, e.location().line(), what);
  }
}

// The value of an override: as in TOML, or a bare word.
toml::value parse_override(const std::string& text, const std::string& value) {
  const auto parse = [&](const std::string& v) {
    const toml::value table = parse_toml("value = " + v + "\n", "command line");
    require(table.as_table().size() == 1, "{}: expected one value", toml_string(text));
    return table.at("value");
  };
  try {
    return parse(value);
  } catch (const std::exception&) {
    require(value.find_first_of("\"'[{\n") != 0 && value.find('\n') == std::string::npos,
            "{}: expected a value as in TOML, or a word without quotes", toml_string(text));
  }
  return parse(toml_string(value));
}

template <class List>
std::string joined(const List& list) {
  std::string out;
  for (const auto& item : list) out += (out.empty() ? "" : ", ") + item;
  return out;
}

}  // namespace

std::string toml_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += '\\', out += c;
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\u{:04X}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + "\"";
}

struct Recipe::Impl {
  std::map<std::string, Setting> settings;
  std::map<std::string, std::string> read_keys;  // key -> value as TOML

  const Setting* find(const std::string& key) {
    if (const auto it = settings.find(key); it != settings.end()) return &it->second;
    for (const auto& [below, setting] : settings)
      require(!is_below(below, key), "{}: {}: expected one value, found a table with {}", setting.where, key,
              below);
    return nullptr;
  }
  [[noreturn]] static void wrong(const std::string& key, const Setting& s, const std::string& expected) {
    fail("{}: {} = {}: expected {}", s.where, key, shown(s.value), expected);
  }
  static std::string string(const std::string& key, const Setting& s, const toml::value& value,
                            const char* expected) {
    if (!value.is_string()) wrong(key, s, expected);
    const std::string& text = value.as_string().str;
    if (text.find('\0') != std::string::npos) wrong(key, s, std::string(expected) + ", without \\u0000");
    return text;
  }
  static void check_allowed(const std::string& key, const Setting& s, const std::string& value,
                            const std::vector<std::string>& allowed) {
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), value) == allowed.end())
      wrong(key, s, "one of " + joined(allowed));
  }
};

Recipe::Recipe(const std::string& path, const std::vector<std::string>& overrides)
    : path_(path), impl_(std::make_unique<Impl>()) {
  constexpr int64_t kLargest = 1 << 20;
  flatten(parse_toml(read_input_file(path, "a recipe in TOML", kLargest), path), "", path, true,
          impl_->settings);
  std::vector<std::string> given;
  for (const std::string& text : overrides) {
    const size_t equals = text.find('=');
    require(equals != std::string::npos && equals > 0, "{}: expected key=value, such as optimizer.lr=1e-4",
            toml_string(text));
    const std::string key = text.substr(0, equals);
    for (const std::string& other : given)
      require(!is_below(key, other) && !is_below(other, key), "{}: {} is set on the command line already",
              toml_string(text), other);
    given.push_back(key);
    std::erase_if(impl_->settings, [&](const auto& s) { return is_below(s.first, key); });
    flatten(parse_override(text, text.substr(equals + 1)), key, "command line", false, impl_->settings);
  }
}

Recipe::~Recipe() = default;

int64_t Recipe::integer(const std::string& key, int64_t fallback, int64_t least, int64_t most) {
  int64_t value = fallback;
  if (const Setting* s = impl_->find(key)) {
    if (!s->value.is_integer()) Impl::wrong(key, *s, "a whole number");
    value = s->value.as_integer();
    if (value < least || value > most || is_beyond_64_bits(s->value))
      Impl::wrong(
          key, *s,
          most == INT64_MAX ? fmt::format("at least {}", least) : fmt::format("{} to {}", least, most));
  }
  impl_->read_keys[key] = std::to_string(value);
  return value;
}

std::vector<int64_t> Recipe::integers(const std::string& key, const std::vector<int64_t>& fallback,
                                      int64_t least, int64_t most) {
  std::vector<int64_t> value = fallback;
  if (const Setting* s = impl_->find(key)) {
    const std::string expected = fmt::format("a list of whole numbers, {} to {}", least, most);
    if (!s->value.is_array()) Impl::wrong(key, *s, expected);
    value.clear();
    for (const toml::value& item : s->value.as_array()) {
      if (!item.is_integer() || is_beyond_64_bits(item) || item.as_integer() < least ||
          item.as_integer() > most)
        Impl::wrong(key, *s, expected);
      value.push_back(item.as_integer());
    }
  }
  impl_->read_keys[key] = fmt::format("[{}]", fmt::join(value, ", "));
  return value;
}

double Recipe::number(const std::string& key, double fallback, double least, double most) {
  double value = fallback;
  if (const Setting* s = impl_->find(key)) {
    if (!s->value.is_floating() && !s->value.is_integer()) Impl::wrong(key, *s, "a number");
    value = s->value.is_integer() ? double(s->value.as_integer()) : double(s->value.as_floating());
    if (!(value >= least && value <= most)) Impl::wrong(key, *s, fmt::format("{} to {}", least, most));
  }
  std::string shown = fmt::format("{}", value);
  if (shown.find_first_not_of("-0123456789") == std::string::npos) shown += ".0";  // else a whole number
  impl_->read_keys[key] = shown;
  return value;
}

bool Recipe::boolean(const std::string& key, bool fallback) {
  bool value = fallback;
  if (const Setting* s = impl_->find(key)) {
    if (!s->value.is_boolean()) Impl::wrong(key, *s, "true or false");
    value = s->value.as_boolean();
  }
  impl_->read_keys[key] = value ? "true" : "false";
  return value;
}

std::string Recipe::text(const std::string& key, const std::string& fallback,
                         const std::vector<std::string>& allowed) {
  std::string value = fallback;
  if (const Setting* s = impl_->find(key)) {
    value = Impl::string(key, *s, s->value, "a text in quotes");
    Impl::check_allowed(key, *s, value, allowed);
  }
  impl_->read_keys[key] = toml_string(value);
  return value;
}

std::string Recipe::text_or_boolean(const std::string& key, const std::string& fallback,
                                    const std::vector<std::string>& allowed, const std::string& where_false,
                                    const std::string& where_true) {
  const Setting* const s = impl_->find(key);
  if (!s || !s->value.is_boolean()) return text(key, fallback, allowed);
  const std::string value = s->value.as_boolean() ? where_true : where_false;
  impl_->read_keys[key] = toml_string(value);
  return value;
}

std::vector<std::string> Recipe::texts(const std::string& key, const std::vector<std::string>& fallback,
                                       const std::vector<std::string>& allowed) {
  std::vector<std::string> value = fallback;
  if (const Setting* s = impl_->find(key)) {
    if (!s->value.is_array()) Impl::wrong(key, *s, "a list of texts, such as [\"a\", \"b\"]");
    value.clear();
    for (const toml::value& item : s->value.as_array()) {
      value.push_back(Impl::string(key, *s, item, "a list of texts, such as [\"a\", \"b\"]"));
      Impl::check_allowed(key, *s, value.back(), allowed);
    }
  }
  std::vector<std::string> list;
  for (const std::string& v : value) list.push_back(toml_string(v));
  impl_->read_keys[key] = "[" + joined(list) + "]";
  return value;
}

void Recipe::renamed(const std::string& old_key, const std::string& key) {
  const Setting* const old = impl_->find(old_key);
  if (!old) return;
  require(!impl_->find(key), "{}: {} is the former name of {}, which is set as well: expected one of the two",
          old->where, old_key, key);
  notes_.push_back(
      fmt::format("{}: {} is now called {}; the old name is still read", old->where, old_key, key));
  impl_->settings[key] = *old;
  impl_->settings.erase(old_key);
}

bool Recipe::has(const std::string& key) const {
  return std::any_of(impl_->settings.begin(), impl_->settings.end(),
                     [&](const auto& s) { return is_below(s.first, key); });
}

int64_t Recipe::tables(const std::string& key) const {
  int64_t count = 0;
  while (has(fmt::format("{}[{}]", key, count))) ++count;
  return count;
}

void Recipe::require_key(const std::string& key) const {
  if (has(key)) return;
  std::vector<std::string> unread;
  for (const auto& [other, setting] : impl_->settings)
    if (!impl_->read_keys.count(other)) unread.push_back(other);
  const std::string nearest = nearest_word(key, unread);
  fail("{}: {} is missing{}", path_, key,
       nearest.empty() ? "" : fmt::format("; is {} meant ({})?", nearest, impl_->settings.at(nearest).where));
}

void Recipe::finish() const {
  std::vector<std::string> known, problems;
  for (const auto& [key, value] : impl_->read_keys) known.push_back(key);
  for (const auto& [key, setting] : impl_->settings) {
    if (impl_->read_keys.count(key)) continue;
    const std::string nearest = nearest_word(key, known);
    problems.push_back(fmt::format("{}: unknown key {}{}", setting.where, key,
                                   nearest.empty() ? "" : "; did you mean " + nearest + "?"));
  }
  require(problems.empty(), "{}", fmt::join(problems, "; "));
}

std::string Recipe::resolved() const {
  std::string out;
  std::map<std::string, std::map<int64_t, std::string>> lists;  // key -> index -> content of the table
  for (const auto& [key, value] : impl_->read_keys) {
    const size_t open = key.find('['), close = key.find(']');
    if (open == std::string::npos) {
      out += key + " = " + value + "\n";
      continue;
    }
    std::string& table = lists[key.substr(0, open)][std::stoll(key.substr(open + 1, close - open - 1))];
    table += (table.empty() ? "" : ", ") + key.substr(close + 2) + " = " + value;
  }
  for (const auto& [key, tables] : lists) {
    out += key + " = [";
    for (const auto& [number, table] : tables) out += (number == 0 ? "{" : ", {") + table + "}";
    out += "]\n";
  }
  return out;
}

}  // namespace wuneng

#include "runtime/config.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <sstream>
#include <toml.hpp>

#include "runtime/error.h"

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
  if (value.is_table()) {
    for (const auto& [key, child] : value.as_table())
      flatten(child, prefix.empty() ? key : prefix + "." + key, file, lines, out);
  } else if (is_list_of_tables(value)) {
    for (size_t i = 0; i < value.as_array().size(); ++i)
      flatten(value.as_array()[i], fmt::format("{}[{}]", prefix, i), file, lines, out);
  } else {
    out[prefix] = {value, lines ? fmt::format("{}:{}", file, value.location().line()) : file};
  }
}

// Is the key `parent` itself, or something below it?
bool is_below(const std::string& key, const std::string& parent) {
  return key.starts_with(parent) &&
         (key.size() == parent.size() || key[parent.size()] == '.' || key[parent.size()] == '[');
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t next = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = std::exchange(row[j], next);
    }
  }
  return row.back();
}

std::string shown(const toml::value& v) {
  std::ostringstream out;
  out << v;
  return out.str();
}

std::string in_quotes(const std::string& text) { return "\"" + text + "\""; }

template <class List>
std::string joined(const List& list) {
  std::string out;
  for (const auto& item : list) out += (out.empty() ? "" : ", ") + item;
  return out;
}

}  // namespace

struct Recipe::Impl {
  std::map<std::string, Setting> settings;
  std::map<std::string, std::string> read_keys;  // key -> value as TOML

  const Setting* find(const std::string& key) {
    const auto it = settings.find(key);
    return it == settings.end() ? nullptr : &it->second;
  }
  [[noreturn]] static void wrong(const std::string& key, const Setting& s, const std::string& expected) {
    fail("{}: {} = {}: expected {}", s.where, key, shown(s.value), expected);
  }
  static void check_allowed(const std::string& key, const Setting& s, const std::string& value,
                            const std::vector<std::string>& allowed) {
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), value) == allowed.end())
      wrong(key, s, "one of " + joined(allowed));
  }
};

Recipe::Recipe(const std::string& path, const std::vector<std::string>& overrides)
    : path_(path), impl_(std::make_unique<Impl>()) {
  try {
    flatten(toml::parse(path), "", path, true, impl_->settings);
  } catch (const toml::syntax_error& e) {
    fail("{}: not TOML: {}", path, e.what());
  } catch (const std::runtime_error& e) {
    fail("recipe {}: cannot be read: {}", path, e.what());
  }
  for (const std::string& text : overrides) {
    const size_t equals = text.find('=');
    require(equals != std::string::npos && equals > 0, "'{}': expected key=value, such as optimizer.lr=1e-4",
            text);
    const std::string key = text.substr(0, equals), value = text.substr(equals + 1);
    const auto parse = [](const std::string& v) {
      std::istringstream in("value = " + v + "\n");
      return toml::parse(in, "command line").at("value");
    };
    toml::value parsed;
    try {
      parsed = parse(value);
    } catch (const std::exception&) {
      parsed = toml::value(value);  // a bare word
    }
    std::erase_if(impl_->settings, [&](const auto& s) { return is_below(s.first, key); });
    flatten(parsed, key, "command line", false, impl_->settings);
  }
}

Recipe::~Recipe() = default;

int64_t Recipe::integer(const std::string& key, int64_t fallback, int64_t least, int64_t most) {
  int64_t value = fallback;
  if (const Setting* s = impl_->find(key)) {
    if (!s->value.is_integer()) Impl::wrong(key, *s, "a whole number");
    value = s->value.as_integer();
    if (value < least || value > most)
      Impl::wrong(
          key, *s,
          most == INT64_MAX ? fmt::format("at least {}", least) : fmt::format("{} to {}", least, most));
  }
  impl_->read_keys[key] = std::to_string(value);
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
    if (!s->value.is_string()) Impl::wrong(key, *s, "a text in quotes");
    value = s->value.as_string().str;
    Impl::check_allowed(key, *s, value, allowed);
  }
  impl_->read_keys[key] = in_quotes(value);
  return value;
}

std::vector<std::string> Recipe::texts(const std::string& key, const std::vector<std::string>& fallback,
                                       const std::vector<std::string>& allowed) {
  std::vector<std::string> value = fallback;
  if (const Setting* s = impl_->find(key)) {
    if (!s->value.is_array()) Impl::wrong(key, *s, "a list of texts, such as [\"a\", \"b\"]");
    value.clear();
    for (const toml::value& item : s->value.as_array()) {
      if (!item.is_string()) Impl::wrong(key, *s, "a list of texts, such as [\"a\", \"b\"]");
      value.push_back(item.as_string().str);
      Impl::check_allowed(key, *s, value.back(), allowed);
    }
  }
  std::vector<std::string> list;
  for (const std::string& v : value) list.push_back(in_quotes(v));
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

void Recipe::require_key(const std::string& key) const { require(has(key), "{}: {} is missing", path_, key); }

void Recipe::finish() const {
  std::string problems;
  for (const auto& [key, setting] : impl_->settings) {
    if (impl_->read_keys.count(key)) continue;
    std::string nearest;
    size_t best = std::max<size_t>(3, key.size() / 3);
    for (const auto& [known, value] : impl_->read_keys)
      if (const size_t distance = edit_distance(key, known); distance < best)
        best = distance, nearest = known;
    problems += fmt::format("{}{}: unknown key {}{}", problems.empty() ? "" : "\n", setting.where, key,
                            nearest.empty() ? "" : "; did you mean " + nearest + "?");
  }
  require(problems.empty(), "{}", problems);
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

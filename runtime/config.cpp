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

void flatten(const toml::value& value, const std::string& prefix, const std::string& file,
             std::map<std::string, Setting>& out) {
  if (!value.is_table()) {
    out[prefix] = {value, fmt::format("{}:{}", file, value.location().line())};
    return;
  }
  for (const auto& [key, child] : value.as_table())
    flatten(child, prefix.empty() ? key : prefix + "." + key, file, out);
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
  std::map<std::string, std::string> asked;  // key -> value as TOML

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
    flatten(toml::parse(path), "", path, impl_->settings);
  } catch (const toml::syntax_error& e) {
    fail("{}: not TOML: {}", path, e.what());
  } catch (const std::runtime_error& e) {
    fail("recipe {}: cannot be read ({})", path, e.what());
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
    try {
      impl_->settings[key] = {parse(value), "command line"};
    } catch (const std::exception&) {
      impl_->settings[key] = {toml::value(value), "command line"};  // a bare word
    }
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
  impl_->asked[key] = std::to_string(value);
  return value;
}

double Recipe::number(const std::string& key, double fallback, double least, double most) {
  double value = fallback;
  if (const Setting* s = impl_->find(key)) {
    if (!s->value.is_floating() && !s->value.is_integer()) Impl::wrong(key, *s, "a number");
    value = s->value.is_integer() ? double(s->value.as_integer()) : double(s->value.as_floating());
    if (!(value >= least && value <= most)) Impl::wrong(key, *s, fmt::format("{} to {}", least, most));
  }
  impl_->asked[key] = fmt::format("{:#}", value);
  return value;
}

bool Recipe::boolean(const std::string& key, bool fallback) {
  bool value = fallback;
  if (const Setting* s = impl_->find(key)) {
    if (!s->value.is_boolean()) Impl::wrong(key, *s, "true or false");
    value = s->value.as_boolean();
  }
  impl_->asked[key] = value ? "true" : "false";
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
  impl_->asked[key] = in_quotes(value);
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
  impl_->asked[key] = "[" + joined(list) + "]";
  return value;
}

bool Recipe::has(const std::string& key) const {
  return std::any_of(impl_->settings.begin(), impl_->settings.end(),
                     [&](const auto& s) { return s.first == key || s.first.rfind(key + ".", 0) == 0; });
}

void Recipe::require_key(const std::string& key) const { require(has(key), "{}: {} is missing", path_, key); }

void Recipe::finish() const {
  std::string problems;
  for (const auto& [key, setting] : impl_->settings) {
    if (impl_->asked.count(key)) continue;
    std::string nearest;
    size_t best = std::max<size_t>(3, key.size() / 3);
    for (const auto& [known, value] : impl_->asked)
      if (const size_t distance = edit_distance(key, known); distance < best)
        best = distance, nearest = known;
    problems += fmt::format("{}{}: unknown key {}{}", problems.empty() ? "" : "\n", setting.where, key,
                            nearest.empty() ? "" : "; did you mean " + nearest + "?");
  }
  require(problems.empty(), "{}", problems);
}

std::string Recipe::resolved() const {
  std::string out;
  for (const auto& [key, value] : impl_->asked) out += key + " = " + value + "\n";
  return out;
}

}  // namespace wuneng

#include "model/options.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace wuneng {
namespace {

using nlohmann::json;

template <class T>
const T& get(const OptionValues& values, const std::string& name, const char* type) {
  const auto it = values.find(name);
  require(it != values.end(), "option {}: expected a {}, found none of that name", name, type);
  const T* value = std::get_if<T>(&it->second);
  require(value != nullptr, "option {}: expected a {}, found {}", name, type, to_json(it->second).dump());
  return *value;
}

std::string list(const std::vector<std::string>& names) { return fmt::format("{}", fmt::join(names, ", ")); }

}  // namespace

bool OptionValues::flag(const std::string& name) const { return get<bool>(*this, name, "boolean"); }
int64_t OptionValues::integer(const std::string& name) const { return get<int64_t>(*this, name, "integer"); }
double OptionValues::number(const std::string& name) const { return get<double>(*this, name, "number"); }
const std::string& OptionValues::text(const std::string& name) const {
  return get<std::string>(*this, name, "string");
}
const std::vector<std::string>& OptionValues::texts(const std::string& name) const {
  return get<std::vector<std::string>>(*this, name, "list of strings");
}

Option Option::flag(std::string name, OptionDefault fallback, std::string help) {
  return {
      .name = std::move(name), .type = Type::flag, .fallback = std::move(fallback), .help = std::move(help)};
}
Option Option::integer(std::string name, OptionDefault fallback, int64_t least, std::string help) {
  return {.name = std::move(name),
          .type = Type::integer,
          .fallback = std::move(fallback),
          .help = std::move(help),
          .least = double(least),
          .most = double(1 << 24)};  // no product of sizes overflows
}
Option Option::number(std::string name, OptionDefault fallback, double least, double most, std::string help) {
  return {.name = std::move(name),
          .type = Type::number,
          .fallback = std::move(fallback),
          .help = std::move(help),
          .least = least,
          .most = most};
}
Option Option::choice(std::string name, OptionDefault fallback, std::vector<std::string> allowed,
                      std::string help) {
  return {.name = std::move(name),
          .type = Type::choice,
          .fallback = std::move(fallback),
          .help = std::move(help),
          .allowed = std::move(allowed)};
}
Option Option::choices(std::string name, OptionDefault fallback, std::vector<std::string> allowed,
                       std::string help) {
  Option o = choice(std::move(name), std::move(fallback), std::move(allowed), std::move(help));
  o.type = Type::choices;
  return o;
}

Option Option::absent(OptionDefault value) && {
  when_absent = std::move(value);
  return std::move(*this);
}

void Option::check(const OptionValue& value, const std::string& where) const {
  const auto in_range = [&](double x) {
    require(least <= x && x <= most, "{}: {} = {}: expected {} to {}", where, name, x, least, most);
  };
  switch (type) {
    case Type::flag:
      if (std::holds_alternative<bool>(value)) return;
      break;
    case Type::integer:
      if (const auto* x = std::get_if<int64_t>(&value)) return in_range(double(*x));
      break;
    case Type::number:
      if (const auto* x = std::get_if<double>(&value)) return in_range(*x);
      break;
    case Type::choice:
      if (const auto* x = std::get_if<std::string>(&value)) return check_choice(*x, allowed, name, where);
      break;
    case Type::choices:
      if (const auto* all = std::get_if<std::vector<std::string>>(&value)) {
        require(!all->empty(), "{}: {} is empty: expected any of {}", where, name, list(allowed));
        for (const std::string& x : *all) check_choice(x, allowed, name, where);
        return;
      }
      break;
  }
  constexpr const char* kTypes[] = {"a boolean", "an integer", "a number", "a string", "a list of strings"};
  fail("{}: key '{}': expected {}, found {}", where, name, kTypes[int(type)], to_json(value).dump());
}

OptionValue Option::from_json(const json& j, const std::string& where) const {
  OptionValue value;
  if (j.is_boolean())
    value = j.get<bool>();
  else if (j.is_number() && type == Type::number)
    value = j.get<double>();
  else if (j.is_number_integer() && !(j.is_number_unsigned() && j.get<uint64_t>() > INT64_MAX))
    value = j.get<int64_t>();
  else if (j.is_string())
    value = j.get<std::string>();
  else if (j.is_array() && std::all_of(j.begin(), j.end(), [](const json& x) { return x.is_string(); }))
    value = j.get<std::vector<std::string>>();
  else
    fail("{}: key '{}': unexpected value {}", where, name, j.dump());
  check(value, where);
  return value;
}

json to_json(const OptionValue& value) {
  return std::visit([](const auto& v) { return json(v); }, value);
}

void check_choice(const std::string& value, const std::vector<std::string>& allowed, const std::string& key,
                  const std::string& where) {
  require(std::find(allowed.begin(), allowed.end(), value) != allowed.end(),
          "{}: {} = '{}': expected one of {}", where, key, value, list(allowed));
}

}  // namespace wuneng

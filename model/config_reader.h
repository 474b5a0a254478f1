// Reads the values of a config.json by key, each checked for its type.
#pragma once
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace wuneng {

// A JSON object whose values are read by type. null is as good as absent.
struct ConfigReader {
  const nlohmann::json& object;
  const std::string& where;

  const nlohmann::json* find(const char* key) const {
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }
  const nlohmann::json& get(const char* key) const {
    const nlohmann::json* value = find(key);
    require(value != nullptr, "{}: key '{}' is missing", where, key);
    return *value;
  }
  void expect(bool condition, const char* key, const nlohmann::json& value, const char* expected) const {
    require(condition, "{}: {} = {}: expected {}", where, key, value.dump(), expected);
  }

  int64_t integer(const char* key) const {
    const nlohmann::json& value = get(key);
    expect(value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX),
           key, value, "a whole number");
    return value.get<int64_t>();
  }
  int64_t integer(const char* key, int64_t fallback) const { return find(key) ? integer(key) : fallback; }
  float number(const char* key, float fallback) const {
    const nlohmann::json* value = find(key);
    if (!value) return fallback;
    expect(value->is_number(), key, *value, "a number");
    return value->get<float>();
  }
  bool flag(const char* key, bool fallback) const {
    const nlohmann::json* value = find(key);
    if (!value) return fallback;
    expect(value->is_boolean(), key, *value, "true or false");
    return value->get<bool>();
  }
  std::string text(const char* key) const {
    const nlohmann::json& value = get(key);
    expect(value.is_string(), key, value, "a string");
    return value.get<std::string>();
  }
  std::vector<std::string> texts(const char* key) const {
    const nlohmann::json* value = find(key);
    if (!value) return {};
    expect(value->is_array() && std::all_of(value->begin(), value->end(),
                                            [](const nlohmann::json& x) { return x.is_string(); }),
           key, *value, "a list of strings");
    return value->get<std::vector<std::string>>();
  }
};

}  // namespace wuneng

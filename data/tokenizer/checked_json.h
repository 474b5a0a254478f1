// A JSON value of a tokenizer's files, whose errors name the file, the key, what was expected and what was
// found.
#pragma once
#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_set>
#include <vector>

#include "data/text/shown_json.h"
#include "runtime/error.h"

namespace wuneng {

// Limit of ids, since memory is proportional to the highest one; real vocabularies have fewer than 300,000.
inline constexpr int32_t kMostTokenIds = 1 << 22;
static_assert(kMostTokenIds == 4194304);  // as in the error messages

struct CheckedJson {
  using Json = nlohmann::json;

  const Json* json;
  const std::string* file;
  std::string key;

  ShownJson<Json> shown() const { return {json}; }
  bool is_null() const { return json->is_null(); }  // an absent key is null

  CheckedJson operator[](const std::string& name) const {
    static const Json absent;
    require(json->is_object(), "{}: {}: expected an object, found {}", *file, key, shown());
    const auto at = json->find(name);
    return {at == json->end() ? &absent : &*at, file, key.empty() ? name : key + "." + name};
  }
  CheckedJson operator[](size_t i) const { return {&(*json)[i], file, fmt::format("{}[{}]", key, i)}; }

  size_t size() const {
    require(json->is_array(), "{}: {}: expected a list, found {}", *file, key, shown());
    return json->size();
  }
  template <class T>
  T get(const char* expected, bool matches) const {
    require(matches, "{}: {}: expected {}, found {}", *file, key, expected, shown());
    return json->get<T>();
  }
  std::string text() const { return get<std::string>("a string", json->is_string()); }
  int32_t id() const {
    return get<int32_t>("a token's id below 4194304",
                        json->is_number_unsigned() && json->get<uint64_t>() < kMostTokenIds);
  }
  bool boolean() const { return get<bool>("true or false", json->is_boolean()); }
  bool flag(bool otherwise = false) const { return is_null() ? otherwise : boolean(); }

  // Requires one of the values; null also matches an absent key.
  void expect(std::initializer_list<Json> allowed, const char* otherwise = "") const {
    if (std::find(allowed.begin(), allowed.end(), *json) != allowed.end()) return;
    std::vector<std::string> names;
    for (const Json& a : allowed) names.push_back(a.dump());
    fail("{}: {}: expected {}, found {}{}", *file, key, fmt::join(names, " or "), shown(), otherwise);
  }
  void expect_keys(const std::unordered_set<std::string>& known) const {
    require(json->is_object(), "{}: {}: expected an object, found {}", *file, key, shown());
    for (const auto& [name, value] : json->items())
      require(known.contains(name), "{}: {}{}{}: expected no such key, found {}", *file, key,
              key.empty() ? "" : ".", name, ShownJson{&value});
  }
};

}  // namespace wuneng

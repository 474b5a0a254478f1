// Options of a mixer: one table of them drives config.json, recipes, checks and `wuneng inspect`.
#pragma once
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>
#include <vector>

#include "runtime/tensor.h"

namespace wuneng {

struct ModelConfig;

using OptionValue = std::variant<bool, int64_t, double, std::string, std::vector<std::string>>;

// The values of a mixer's options, by name. Each get throws where the option is missing or of another type.
class OptionValues : public std::map<std::string, OptionValue> {
 public:
  using map::map;
  bool flag(const std::string& name) const;
  int64_t integer(const std::string& name) const;
  double number(const std::string& name) const;
  const std::string& text(const std::string& name) const;
  const std::vector<std::string>& texts(const std::string& name) const;
};

// What an option is where nobody sets it: of the model's shape and the options before it in the table.
class OptionDefault {
 public:
  using Function = std::function<OptionValue(const ModelConfig& shape, const OptionValues& before)>;
  OptionDefault() = default;
  template <class T>
  requires std::is_convertible_v<T, OptionValue> OptionDefault(T value)
      : function_(
            [v = OptionValue(std::move(value))](const ModelConfig&, const OptionValues&) { return v; }) {}
  template <class F>
  requires std::is_invocable_r_v<OptionValue, F, const ModelConfig&, const OptionValues&> OptionDefault(
      F function)
      : function_(std::move(function)) {}
  bool defined() const { return function_ != nullptr; }
  OptionValue operator()(const ModelConfig& shape, const OptionValues& before) const {
    return function_(shape, before);
  }

 private:
  Function function_;
};

struct Option {
  enum class Type { flag, integer, number, choice, choices };
  std::string name;  // in config.json and in a recipe's [student]
  Type type;
  OptionDefault fallback;
  std::string help;                  // one line, as in every_key.toml
  double least = 0, most = 0;        // of an integer or a number
  std::vector<std::string> allowed;  // of a choice, or of each of several
  OptionDefault when_absent = {};    // in a config.json older than the option; undefined: an error

  static Option flag(std::string name, OptionDefault fallback, std::string help);
  static Option integer(std::string name, OptionDefault fallback, int64_t least, std::string help);
  static Option number(std::string name, OptionDefault fallback, double least, double most, std::string help);
  static Option choice(std::string name, OptionDefault fallback, std::vector<std::string> allowed,
                       std::string help);
  static Option choices(std::string name, OptionDefault fallback, std::vector<std::string> allowed,
                        std::string help);
  Option absent(OptionDefault value) &&;  // sets when_absent

  // Throws where the value is not of the option's type, range or choices. `where` names the file or recipe.
  void check(const OptionValue& value, const std::string& where) const;
  OptionValue from_json(const nlohmann::json& value, const std::string& where) const;  // checked
};
using OptionTable = std::vector<Option>;

nlohmann::json to_json(const OptionValue& value);
// Throws unless `value` is one of `allowed`.
void check_choice(const std::string& value, const std::vector<std::string>& allowed, const std::string& key,
                  const std::string& where);

}  // namespace wuneng

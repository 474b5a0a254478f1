#include "model/rope_settings.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "runtime/error.h"

namespace wuneng {
namespace {

using nlohmann::json;

double rope_number(const json& value, const std::string& where) {
  require(value.is_number(), "{}: expected a number, found {}", where, value.dump());
  return value.get<double>();
}

// Throws unless these settings leave every frequency as it is: no type or "default", or a type that divides
// frequencies by a factor, which is 1. "dynamic" is refused in any case: it changes with the length.
void require_unscaled(const json& rope, const std::string& where) {
  static const std::set<std::string> divides = {"linear", "yarn", "llama3"};
  bool scales = false;
  for (const char* key : {"rope_type", "type"}) {
    const auto type = rope.find(key);
    if (type == rope.end() || type->is_null() || *type == "default") continue;
    require(type->is_string() && divides.contains(type->get<std::string>()),
            "{}.{} = {}: scaled rotary embedding is not supported: expected \"default\"", where, key,
            type->dump());
    scales = true;
  }
  require(!scales || rope.contains("factor"), "{}: {}: expected a factor, found none", where, rope.dump());
  for (const char* key : {"factor", "attention_factor", "partial_rotary_factor", "mscale", "mscale_all_dim"})
    if (const auto factor = rope.find(key); factor != rope.end() && !factor->is_null())
      require(rope_number(*factor, where + "." + key) == 1,
              "{}.{} = {}: scaled rotary embedding is not supported: expected 1", where, key, factor->dump());
  for (const auto& [key, value] : rope.items())
    require(!value.is_object() && key != "mrope_section",
            "{}.{}: expected one rotary embedding for all layers and channels, found {}", where, key,
            value.dump());
}

}  // namespace

float read_rope_theta(const json& config, const std::string& where) {
  std::optional<double> theta;
  std::string from;
  const auto take_theta = [&](const json& object, const std::string& at) {
    const auto found = object.find("rope_theta");
    if (found == object.end() || found->is_null()) return;
    const double value = rope_number(*found, at);
    require(!theta || *theta == value, "{} = {}, but {} = {}: expected one rope_theta", at, value, from,
            theta.value_or(0));
    theta = value, from = at;
  };
  take_theta(config, where + ": rope_theta");
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const auto rope = config.find(key);
    if (rope == config.end() || rope->is_null()) continue;
    const std::string at = where + ": " + key;
    require(rope->is_object(), "{} = {}: expected an object", at, rope->dump());
    require_unscaled(*rope, at);
    take_theta(*rope, at + ".rope_theta");
  }
  for (const auto& [key, plain] :
       {std::pair{"rope_type", json("default")}, {"partial_rotary_factor", json(1)}})
    if (const auto it = config.find(key); it != config.end() && !it->is_null())
      require(*it == plain, "{}: {} = {}: scaled rotary embedding is not supported: expected {}", where, key,
              it->dump(), plain.dump());
  return static_cast<float>(theta.value_or(10000.0));
}

}  // namespace wuneng

#include "model/rope_settings.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/error.h"

namespace wuneng {
namespace {

using nlohmann::json;

double rope_number(const json& value, const std::string& where) {
  require(value.is_number(), "{}: expected a number, found {}", where, value.dump());
  return value.get<double>();
}

bool has(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

// Is its type, which may stand under two names, YaRN?
bool is_yarn(const json& rope, const std::string& where) {
  const bool both = has(rope, "rope_type") && has(rope, "type");
  require(!both || rope["rope_type"] == rope["type"], "{}: rope_type = {}, type = {}: expected one type",
          where, both ? rope["rope_type"].dump() : "", both ? rope["type"].dump() : "");
  return (has(rope, "rope_type") && rope["rope_type"] == "yarn") ||
         (has(rope, "type") && rope["type"] == "yarn");
}

YarnScaling read_yarn(const json& rope, const json& config, const std::string& where) {
  const auto number = [&](const char* key, double fallback) {
    return has(rope, key) ? rope_number(rope[key], where + "." + key) : fallback;
  };
  static const std::set<std::string> known = {"rope_type",        "type",
                                              "rope_theta",       "factor",
                                              "attention_factor", "mscale",
                                              "mscale_all_dim",   "beta_fast",
                                              "beta_slow",        "original_max_position_embeddings",
                                              "truncate",         "partial_rotary_factor"};
  for (const auto& [key, value] : rope.items())
    require(known.contains(key), "{}.{} = {}: YaRN has no such setting: expected one of {}", where, key,
            value.dump(), fmt::join(known, ", "));
  require(number("partial_rotary_factor", 1) == 1, "{}.partial_rotary_factor = {}: expected 1", where,
          number("partial_rotary_factor", 1));
  require(has(rope, "factor"), "{}: YaRN: expected a factor, found none", where);
  YarnScaling yarn;
  yarn.factor = number("factor", 1);
  yarn.beta_fast = number("beta_fast", 32);
  yarn.beta_slow = number("beta_slow", 1);
  if (has(rope, "truncate")) {
    require(rope["truncate"].is_boolean(), "{}.truncate = {}: expected true or false", where,
            rope["truncate"].dump());
    yarn.truncate = rope["truncate"].get<bool>();
  }
  const json& length = has(rope, "original_max_position_embeddings")
                           ? rope["original_max_position_embeddings"]
                           : config.value("max_position_embeddings", json());
  require(
      length.is_number_integer() && length > 0,
      "{}: YaRN: expected original_max_position_embeddings, or max_position_embeddings, as a positive whole "
      "number, found {}",
      where, length.dump());
  yarn.original_length = length.get<int64_t>();
  require(yarn.factor >= 1 && yarn.beta_fast > yarn.beta_slow && yarn.beta_slow > 0,
          "{}: YaRN: expected factor >= 1 and beta_fast > beta_slow > 0, found factor {}, beta_fast {}, "
          "beta_slow {}",
          where, yarn.factor, yarn.beta_fast, yarn.beta_slow);
  const auto scale = [&](double m) { return 0.1 * m * std::log(yarn.factor) + 1; };
  const double mscale = number("mscale", 0), all = number("mscale_all_dim", 0);
  yarn.attention_factor =
      number("attention_factor", mscale != 0 && all != 0 ? scale(mscale) / scale(all) : scale(1));
  require(yarn.attention_factor > 0, "{}.attention_factor = {}: expected a positive number", where,
          yarn.attention_factor);
  return yarn;
}

// Throws unless these settings leave every frequency as it is: no type or "default", or a type that divides
// frequencies by a factor, which is 1. "dynamic" is refused in any case: it changes with the length.
void require_unscaled(const json& rope, const std::string& where) {
  static const std::set<std::string> divides = {"linear", "llama3"};
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

YarnScaling yarn_scaling(double factor, int64_t original_length) {
  const json rope = {
      {"rope_type", "yarn"}, {"factor", factor}, {"original_max_position_embeddings", original_length}};
  return read_yarn(rope, json::object(), "yarn");
}

RopeSettings read_rope_settings(const json& config, const std::string& where) {
  std::optional<double> theta;
  std::optional<YarnScaling> yarn;
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
    if (is_yarn(*rope, at)) {
      const YarnScaling found = read_yarn(*rope, config, at);
      require(!yarn || rope_scaling_json(*yarn) == rope_scaling_json(found),
              "{}: rope_parameters and rope_scaling: expected one scaling, found two", where);
      yarn = found;
    } else {
      require_unscaled(*rope, at);
    }
    take_theta(*rope, at + ".rope_theta");
  }
  for (const auto& [key, plain] :
       {std::pair{"rope_type", json("default")}, {"partial_rotary_factor", json(1)}})
    if (const auto it = config.find(key); it != config.end() && !it->is_null())
      require(*it == plain, "{}: {} = {}: scaled rotary embedding is not supported: expected {}", where, key,
              it->dump(), plain.dump());
  require(!yarn || theta.value_or(10000.0) > 1, "{}: YaRN: expected rope_theta > 1, found {}", where,
          theta.value_or(10000.0));
  if (yarn && yarn->factor == 1 && yarn->attention_factor == 1) yarn.reset();
  return {static_cast<float>(theta.value_or(10000.0)), yarn};
}

json rope_scaling_json(const YarnScaling& yarn) {
  return {{"rope_type", "yarn"},
          {"factor", yarn.factor},
          {"attention_factor", yarn.attention_factor},
          {"beta_fast", yarn.beta_fast},
          {"beta_slow", yarn.beta_slow},
          {"original_max_position_embeddings", yarn.original_length},
          {"truncate", yarn.truncate}};
}

std::vector<double> rope_frequencies(float theta, const std::optional<YarnScaling>& yarn, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  std::vector<double> out(half);
  for (int64_t i = 0; i < half; ++i) out[i] = std::pow(double(theta), -double(i) / half);
  if (!yarn) return out;
  // The channel that turns so many times within the original length.
  const auto channel_of = [&](double turns) {
    constexpr double kTurn = 6.283185307179586;
    return double(head_dim) * std::log(double(yarn->original_length) / (turns * kTurn)) /
           (2 * std::log(double(theta)));
  };
  double low = channel_of(yarn->beta_fast), high = channel_of(yarn->beta_slow);
  if (yarn->truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, double(head_dim - 1));
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < half; ++i) {
    const double ramp = std::clamp((double(i) - low) / (high - low), 0.0, 1.0);  // 1: interpolated
    out[i] *= ramp / yarn->factor + (1 - ramp);
  }
  return out;
}

}  // namespace wuneng

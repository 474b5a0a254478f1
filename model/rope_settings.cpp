#include "model/rope_settings.h"

#include <algorithm>
#include <cmath>
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

bool has(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

// Its type, which may stand under two names; "default" where there is none.
std::string type_of(const json& rope, const std::string& where) {
  std::string type;
  for (const char* key : {"rope_type", "type"}) {
    if (!has(rope, key)) continue;
    require(rope[key].is_string(), "{}.{} = {}: expected a string", where, key, rope[key].dump());
    const auto found = rope[key].get<std::string>();
    require(type.empty() || type == found, "{}: rope_type = {}, type = {}: expected one type", where, type,
            found);
    type = found;
  }
  return type.empty() ? "default" : type;
}

// A scaling's settings: numbers and lengths by name, and no others.
struct ScalingReader {
  const json &rope, &config;
  const std::string& where;

  void refuse_others(const char* name, std::set<std::string> known) const {
    known.insert({"rope_type", "type", "rope_theta", "partial_rotary_factor"});
    for (const auto& [key, value] : rope.items())
      require(known.contains(key), "{}.{} = {}: {} has no such setting: expected one of {}", where, key,
              value.dump(), name, fmt::join(known, ", "));
    require(number("partial_rotary_factor", 1) == 1, "{}.partial_rotary_factor = {}: expected 1", where,
            number("partial_rotary_factor", 1));
  }
  double number(const char* key, double fallback) const {
    return has(rope, key) ? rope_number(rope[key], where + "." + key) : fallback;
  }
  double factor(const char* name) const {
    require(has(rope, "factor"), "{}: {}: expected a factor, found none", where, name);
    return number("factor", 1);
  }
  int64_t original_length(const char* name) const {
    const char* key = "original_max_position_embeddings";
    const json& length = has(rope, key) ? rope[key] : config.value("max_position_embeddings", json());
    require(length.is_number_integer() && length > 0,
            "{}: {}: expected {}, or max_position_embeddings, as a positive whole number, found {}", where,
            name, key, length.dump());
    return length.get<int64_t>();
  }
};

LinearScaling read_linear(const ScalingReader& r) {
  r.refuse_others("linear scaling", {"factor"});
  const LinearScaling linear{r.factor("linear scaling")};
  require(linear.factor >= 1, "{}: linear scaling: expected factor >= 1, found {}", r.where, linear.factor);
  return linear;
}

Llama3Scaling read_llama3(const ScalingReader& r) {
  r.refuse_others("llama3",
                  {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
  for (const char* key : {"low_freq_factor", "high_freq_factor"})
    require(has(r.rope, key), "{}: llama3: expected {}, found none", r.where, key);
  Llama3Scaling s;
  s.factor = r.factor("llama3");
  s.low = r.number("low_freq_factor", 1), s.high = r.number("high_freq_factor", 4);
  s.original_length = r.original_length("llama3");
  require(s.factor >= 1 && s.high > s.low && s.low > 0,
          "{}: llama3: expected factor >= 1 and high_freq_factor > low_freq_factor > 0, found factor {}, "
          "high_freq_factor {}, low_freq_factor {}",
          r.where, s.factor, s.high, s.low);
  return s;
}

YarnScaling read_yarn(const ScalingReader& r) {
  r.refuse_others("YaRN", {"factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow",
                           "original_max_position_embeddings", "truncate"});
  YarnScaling yarn;
  yarn.factor = r.factor("YaRN");
  yarn.beta_fast = r.number("beta_fast", 32);
  yarn.beta_slow = r.number("beta_slow", 1);
  if (has(r.rope, "truncate")) {
    require(r.rope["truncate"].is_boolean(), "{}.truncate = {}: expected true or false", r.where,
            r.rope["truncate"].dump());
    yarn.truncate = r.rope["truncate"].get<bool>();
  }
  yarn.original_length = r.original_length("YaRN");
  require(yarn.factor >= 1 && yarn.beta_fast > yarn.beta_slow && yarn.beta_slow > 0,
          "{}: YaRN: expected factor >= 1 and beta_fast > beta_slow > 0, found factor {}, beta_fast {}, "
          "beta_slow {}",
          r.where, yarn.factor, yarn.beta_fast, yarn.beta_slow);
  const auto scale = [&](double m) { return 0.1 * m * std::log(yarn.factor) + 1; };
  const double mscale = r.number("mscale", 0), all = r.number("mscale_all_dim", 0);
  yarn.attention_factor =
      r.number("attention_factor", mscale != 0 && all != 0 ? scale(mscale) / scale(all) : scale(1));
  require(yarn.attention_factor > 0, "{}.attention_factor = {}: expected a positive number", r.where,
          yarn.attention_factor);
  return yarn;
}

// Settings without a type, or of the type "default": throws unless they leave every frequency as it is.
void require_plain(const json& rope, const std::string& where) {
  for (const char* key : {"factor", "attention_factor", "partial_rotary_factor", "mscale", "mscale_all_dim"})
    if (has(rope, key))
      require(rope_number(rope[key], where + "." + key) == 1,
              "{}.{} = {}: scaled rotary embedding is not supported: expected 1", where, key,
              rope[key].dump());
  for (const auto& [key, value] : rope.items())
    require(!value.is_object() && key != "mrope_section",
            "{}.{}: expected one rotary embedding for all layers and channels, found {}", where, key,
            value.dump());
}

// A scaling that changes nothing is none.
RopeScaling read_scaling(const json& rope, const json& config, const std::string& where) {
  const std::string type = type_of(rope, where);
  const ScalingReader r{rope, config, where};
  if (type == "default") {
    require_plain(rope, where);
    return PlainRope{};
  }
  if (type == "linear") {
    const LinearScaling linear = read_linear(r);
    return linear.factor == 1 ? RopeScaling(PlainRope{}) : linear;
  }
  if (type == "llama3") {
    const Llama3Scaling llama3 = read_llama3(r);
    return llama3.factor == 1 ? RopeScaling(PlainRope{}) : llama3;
  }
  require(type == "yarn",
          "{}: rope_type = \"{}\": scaled rotary embedding of this type is not supported: expected one of "
          "\"default\", \"linear\", \"yarn\", \"llama3\"",
          where, type);
  const YarnScaling yarn = read_yarn(r);
  return yarn.factor == 1 && yarn.attention_factor == 1 ? RopeScaling(PlainRope{}) : yarn;
}

}  // namespace

YarnScaling yarn_scaling(double factor, int64_t original_length) {
  const json rope = {
      {"rope_type", "yarn"}, {"factor", factor}, {"original_max_position_embeddings", original_length}};
  const json config = json::object();
  return read_yarn({rope, config, "yarn"});
}

RopeSettings read_rope_settings(const json& config, const std::string& where) {
  std::optional<double> theta;
  std::optional<RopeScaling> scaling;
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
    const RopeScaling found = read_scaling(*rope, config, at);
    require(!scaling || rope_scaling_json(*scaling) == rope_scaling_json(found),
            "{}: rope_parameters and rope_scaling: expected one scaling, found two", where);
    scaling = found;
    take_theta(*rope, at + ".rope_theta");
  }
  for (const auto& [key, plain] :
       {std::pair{"rope_type", json("default")}, {"partial_rotary_factor", json(1)}})
    if (const auto it = config.find(key); it != config.end() && !it->is_null())
      require(*it == plain, "{}: {} = {}: scaled rotary embedding is not supported: expected {}", where, key,
              it->dump(), plain.dump());
  RopeSettings out{static_cast<float>(theta.value_or(10000.0)), scaling.value_or(PlainRope{})};
  require(!std::holds_alternative<YarnScaling>(out.scaling) || theta.value_or(10000.0) > 1,
          "{}: YaRN: expected rope_theta > 1, found {}", where, theta.value_or(10000.0));
  return out;
}

json rope_scaling_json(const RopeScaling& scaling) {
  if (const auto* linear = std::get_if<LinearScaling>(&scaling))
    return {{"rope_type", "linear"}, {"factor", linear->factor}};
  if (const auto* yarn = std::get_if<YarnScaling>(&scaling))
    return {{"rope_type", "yarn"},
            {"factor", yarn->factor},
            {"attention_factor", yarn->attention_factor},
            {"beta_fast", yarn->beta_fast},
            {"beta_slow", yarn->beta_slow},
            {"original_max_position_embeddings", yarn->original_length},
            {"truncate", yarn->truncate}};
  if (const auto* llama3 = std::get_if<Llama3Scaling>(&scaling))
    return {{"rope_type", "llama3"},
            {"factor", llama3->factor},
            {"low_freq_factor", llama3->low},
            {"high_freq_factor", llama3->high},
            {"original_max_position_embeddings", llama3->original_length}};
  return nullptr;
}

namespace {

constexpr double kTurn = 6.283185307179586;

// Both scale the frequencies [head_dim / 2] of a plain embedding.
void scale_by_yarn(const YarnScaling& yarn, float theta, int64_t head_dim, std::vector<double>& frequencies) {
  // The channel that turns so many times within the original length.
  const auto channel_of = [&](double turns) {
    return double(head_dim) * std::log(double(yarn.original_length) / (turns * kTurn)) /
           (2 * std::log(double(theta)));
  };
  double low = channel_of(yarn.beta_fast), high = channel_of(yarn.beta_slow);
  if (yarn.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, double(head_dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((double(i) - low) / (high - low), 0.0, 1.0);  // 1: interpolated
    frequencies[i] *= ramp / yarn.factor + (1 - ramp);
  }
}

void scale_as_llama3(const Llama3Scaling& s, std::vector<double>& frequencies) {
  for (double& frequency : frequencies) {
    const double turns = double(s.original_length) * frequency / kTurn;
    const double kept = std::clamp((turns - s.low) / (s.high - s.low), 0.0, 1.0);
    frequency *= (1 - kept) / s.factor + kept;
  }
}

}  // namespace

std::vector<double> rope_frequencies(float theta, const RopeScaling& scaling, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  std::vector<double> out(half);
  for (int64_t i = 0; i < half; ++i) out[i] = std::pow(double(theta), -double(i) / half);
  if (const auto* linear = std::get_if<LinearScaling>(&scaling))
    for (double& frequency : out) frequency /= linear->factor;
  if (const auto* yarn = std::get_if<YarnScaling>(&scaling)) scale_by_yarn(*yarn, theta, head_dim, out);
  if (const auto* llama3 = std::get_if<Llama3Scaling>(&scaling)) scale_as_llama3(*llama3, out);
  return out;
}

double rope_attention_factor(const RopeScaling& scaling) {
  const auto* yarn = std::get_if<YarnScaling>(&scaling);
  return yarn ? yarn->attention_factor : 1;
}

}  // namespace wuneng

#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

namespace wuneng {
namespace {

using nlohmann::json;

template <class T>
T field(const json& j, const char* key, const std::string& where, const T* fallback = nullptr) {
  const auto it = j.find(key);
  if (it == j.end() || it->is_null()) {
    require(fallback != nullptr, "{}: key '{}' is missing", where, key);
    return *fallback;
  }
  try {
    return it->get<T>();
  } catch (const json::exception&) {
    fail("{}: key '{}': unexpected value {}", where, key, it->dump());
  }
}

template <class T>
T field_or(const json& j, const char* key, const std::string& where, T fallback) {
  return field<T>(j, key, where, &fallback);
}

void one_of(const std::string& value, std::initializer_list<const char*> allowed, const char* key,
            const std::string& where) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
  std::string list;
  for (const char* a : allowed) list += (list.empty() ? "" : ", ") + std::string(a);
  fail("{}: {} = '{}': expected one of {}", where, key, value, list);
}

}  // namespace

bool WunengConfig::value_from(const char* what) const {
  return std::find(state_value.begin(), state_value.end(), what) != state_value.end();
}

void ModelConfig::check(const std::string& where) const {
  for (const auto& [key, value] : {std::pair<const char*, int64_t>{"hidden_size", hidden_size},
                                   {"intermediate_size", intermediate_size},
                                   {"num_hidden_layers", num_layers},
                                   {"num_attention_heads", num_heads},
                                   {"num_key_value_heads", num_kv_heads},
                                   {"head_dim", head_dim},
                                   {"vocab_size", vocab_size}})
    require(value > 0, "{}: {} = {}: expected a positive number", where, key, value);
  require(num_heads % num_kv_heads == 0, "{}: {} heads are not a multiple of {} kv_heads", where, num_heads,
          num_kv_heads);
  require(head_dim % 2 == 0, "{}: head_dim {} is odd; rotary embedding turns pairs of channels", where,
          head_dim);
  one_of(mixer, {"qwen2", "wuneng"}, "mixer", where);
  if (!is_wuneng()) return;
  const WunengConfig& w = wuneng;
  require(w.state_heads > 0 && w.state_heads % num_kv_heads == 0 && num_heads % w.state_heads == 0,
          "{}: state_heads = {}: expected a multiple of the {} kv_heads that divides the {} heads", where,
          w.state_heads, num_kv_heads, num_heads);
  one_of(w.state_query, {"grouped", "full"}, "state_query", where);
  one_of(w.state_key, {"own", "shared"}, "state_key", where);
  one_of(w.state_read, {"linear", "quadratic"}, "state_read", where);
  one_of(w.state_norm, {"rms", "none"}, "state_norm", where);
  require(w.state_norm_eps >= 0, "{}: state_norm_eps = {}: expected at least 0", where, w.state_norm_eps);
  one_of(w.cross_head, {"none", "concat", "additive", "gated"}, "cross_head", where);
  one_of(w.combine_state, {"concat", "sum", "learned"}, "combine_state", where);
  one_of(w.combine_middle, {"concat", "sum", "learned"}, "combine_middle", where);
  require(!w.state_value.empty(), "{}: state_value is empty: expected any of token, attention, middle",
          where);
  for (const auto& v : w.state_value) one_of(v, {"token", "attention", "middle"}, "state_value", where);
  require(w.chunk > 0, "{}: chunk = {}: expected at least 1 token", where, w.chunk);
  require(w.state_rank >= 0 && w.decay_rank > 0 && w.rate_rank > 0,
          "{}: ranks: state_rank {} (>= 0), decay_rank {} and rate_rank {} (> 0)", where, w.state_rank,
          w.decay_rank, w.rate_rank);
}

ModelConfig ModelConfig::from_json(const json& j, const std::string& where) {
  require(j.is_object(), "{}: expected a JSON object", where);
  ModelConfig c;
  const auto type = field_or<std::string>(j, "model_type", where, "qwen2");
  require(type == "qwen2" || type == "wuneng", "{}: model_type '{}': expected qwen2 or wuneng", where, type);
  c.mixer = type;
  c.hidden_size = field<int64_t>(j, "hidden_size", where);
  c.intermediate_size = field<int64_t>(j, "intermediate_size", where);
  c.num_layers = field<int64_t>(j, "num_hidden_layers", where);
  c.num_heads = field<int64_t>(j, "num_attention_heads", where);
  c.num_kv_heads = field_or<int64_t>(j, "num_key_value_heads", where, c.num_heads);
  require(c.num_heads > 0, "{}: num_attention_heads = {}", where, c.num_heads);
  c.head_dim = field_or<int64_t>(j, "head_dim", where, c.hidden_size / c.num_heads);
  c.vocab_size = field<int64_t>(j, "vocab_size", where);
  c.rms_norm_eps = field_or<float>(j, "rms_norm_eps", where, 1e-6f);
  c.tie_word_embeddings = field_or<bool>(j, "tie_word_embeddings", where, false);
  // Newer writers nest theta under rope_parameters.
  const json rope = field_or<json>(j, "rope_parameters", where, json::object());
  c.rope_theta = rope.contains("rope_theta") ? field<float>(rope, "rope_theta", where)
                                             : field_or<float>(j, "rope_theta", where, 10000.0f);
  const auto rope_type = field_or<std::string>(rope, "rope_type", where, "default");
  require(rope_type == "default" && (!j.contains("rope_scaling") || j["rope_scaling"].is_null()),
          "{}: scaled rotary embedding ('{}') is not supported", where, rope_type);
  require(!field_or<bool>(j, "use_sliding_window", where, false), "{}: use_sliding_window is not supported",
          where);
  require(field_or<std::string>(j, "hidden_act", where, "silu") == "silu", "{}: hidden_act: expected silu",
          where);
  if (c.is_wuneng()) {
    const json w = field<json>(j, "wuneng", where);
    const std::string at = where + " (wuneng)";
    WunengConfig& o = c.wuneng;
    o.state_heads = field<int64_t>(w, "state_heads", at);
    o.token_shift = field<bool>(w, "token_shift", at);
    o.state_query = field<std::string>(w, "state_query", at);
    o.state_key = field<std::string>(w, "state_key", at);
    o.state_rank = field<int64_t>(w, "state_rank", at);
    o.state_read = field<std::string>(w, "state_read", at);
    // A model written before these two were options was trained with an RMSNorm of this eps.
    o.state_norm = field_or<std::string>(w, "state_norm", at, "rms");
    o.state_norm_eps = field_or<double>(w, "state_norm_eps", at, double(c.head_dim) * 1e-5);
    o.state_value = field<std::vector<std::string>>(w, "state_value", at);
    o.cross_head = field<std::string>(w, "cross_head", at);
    o.combine_state = field<std::string>(w, "combine_state", at);
    o.combine_middle = field<std::string>(w, "combine_middle", at);
    o.multi_token = field<bool>(w, "multi_token", at);
    o.chunk = field<int64_t>(w, "chunk", at);
    o.decay_rank = field<int64_t>(w, "decay_rank", at);
    o.rate_rank = field<int64_t>(w, "rate_rank", at);
  }
  c.check(where);
  return c;
}

ModelConfig ModelConfig::from_directory(const std::string& directory) {
  const std::string path = directory + "/config.json";
  std::ifstream in(path);
  require(in.good(), "{}: cannot be read; expected a Hugging Face model directory", path);
  try {
    return from_json(json::parse(in), path);
  } catch (const json::parse_error& e) {
    fail("{}: not JSON: {}", path, e.what());
  }
}

json ModelConfig::to_json() const {
  json j = {{"architectures", {is_wuneng() ? "WunengForCausalLM" : "Qwen2ForCausalLM"}},
            {"model_type", mixer},
            {"hidden_size", hidden_size},
            {"intermediate_size", intermediate_size},
            {"num_hidden_layers", num_layers},
            {"num_attention_heads", num_heads},
            {"num_key_value_heads", num_kv_heads},
            {"head_dim", head_dim},
            {"vocab_size", vocab_size},
            {"rope_theta", double(rope_theta)},
            {"rms_norm_eps", std::round(double(rms_norm_eps) * 1e12) / 1e12},
            {"tie_word_embeddings", tie_word_embeddings},
            {"hidden_act", "silu"},
            {"use_sliding_window", false},
            {"attention_dropout", 0.0},
            {"initializer_range", 0.02}};
  if (is_wuneng()) {
    const WunengConfig& o = wuneng;
    j["wuneng"] = {{"state_heads", o.state_heads},     {"token_shift", o.token_shift},
                   {"state_query", o.state_query},     {"state_key", o.state_key},
                   {"state_rank", o.state_rank},       {"state_read", o.state_read},
                   {"state_norm", o.state_norm},       {"state_norm_eps", o.state_norm_eps},
                   {"state_value", o.state_value},     {"cross_head", o.cross_head},
                   {"combine_state", o.combine_state}, {"combine_middle", o.combine_middle},
                   {"multi_token", o.multi_token},     {"chunk", o.chunk},
                   {"decay_rank", o.decay_rank},       {"rate_rank", o.rate_rank}};
  }
  return j;
}

WunengConfig preset(const std::string& name, const ModelConfig& shape) {
  one_of(name, {"full", "lean", "literal"}, "preset", "recipe");
  WunengConfig w;
  w.state_heads = name == "literal" ? shape.num_kv_heads : shape.num_heads;
  const int64_t rank = std::max<int64_t>(32, std::lround(std::sqrt(double(shape.hidden_size)) / 32) * 32);
  w.decay_rank = w.rate_rank = rank;
  // A factorised [out, d] matrix of rank r holds r (out + d) elements; out is N D.
  const int64_t out = w.state_heads * shape.head_dim, bounded = 2 * shape.head_dim;
  w.state_rank = bounded * (out + shape.hidden_size) < out * shape.hidden_size ? bounded : 0;
  if (name == "lean") {
    w.cross_head = "none";
    w.multi_token = false;
    w.state_value = {"token"};
  }
  if (name == "literal") {
    w.token_shift = false;
    w.state_query = "full";
    w.state_key = "shared";
    w.state_value = {"attention", "middle"};
    w.combine_state = w.combine_middle = "concat";
  }
  return w;
}

int64_t rwkv7_student_parameter_count(const ModelConfig& c) {
  // ARWKV (docs/model.md): r, k, v, o of [d, d], six mu, four biases and low ranks (w, a 64, v 32, g 128),
  // k_k, k_a, r_k.
  const int64_t d = c.hidden_size;
  const int64_t mixer = 4 * d * d + 6 * d + 3 * d + 2 * d * (64 + 64 + 32 + 128) + 3 * d;
  const int64_t layer = mixer + 3 * d * c.intermediate_size + 2 * d;
  return c.num_layers * layer + d + c.vocab_size * d * (c.tie_word_embeddings ? 1 : 2);
}

}  // namespace wuneng

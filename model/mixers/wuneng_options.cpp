#include "model/mixers/wuneng_options.h"

#include <algorithm>
#include <cmath>

namespace wuneng {
namespace {

using Texts = std::vector<std::string>;

}  // namespace

OptionTable wuneng_options() {
  using Before = OptionValues;
  const auto heads = [](const ModelConfig& c, const Before&) -> OptionValue { return c.num_heads; };
  const auto gate_rank = [](const ModelConfig& c, const Before&) -> OptionValue {
    return std::max<int64_t>(32, std::lround(std::sqrt(double(c.hidden_size)) / 32) * 32);
  };
  // A factorised [N D, d] matrix of rank r holds r (N D + d) elements.
  const auto state_rank = [](const ModelConfig& c, const Before& before) -> OptionValue {
    const int64_t d = c.hidden_size, out = before.integer("state_heads") * c.head_dim, r = 2 * c.head_dim;
    return r * (out + d) < out * d ? r : int64_t{0};
  };
  // A model written before state_norm was an option was trained with an RMSNorm of this eps.
  const auto former_eps = [](const ModelConfig& c, const Before&) -> OptionValue {
    return double(c.head_dim) * 1e-5;
  };
  const Texts joins = {"concat", "sum", "learned"};
  return {
      Option::integer("state_heads", heads, 1,
                      "RWKV-7 heads a layer, default: heads; kv_heads divide them, they divide heads"),
      Option::flag("token_shift", true, "the states' inputs mix in the token before"),
      Option::choice("state_query", "grouped", {"grouped", "full"},
                     "\"grouped\": one projection a state head; \"full\": one a query head"),
      Option::choice("state_key", "own", {"own", "shared"},
                     "\"own\" projection, or \"shared\" with the attention's"),
      Option::integer("state_rank", state_rank, 0,
                      "rank of the states' projections, 0: full; default: 2 head_dim where smaller"),
      Option::choice("state_read", "linear", {"linear", "quadratic"}, "\"linear\" or \"quadratic\""),
      Option::choice("state_norm", "rms", {"rms", "none"},
                     "of what is read: \"rms\": RMSNorm; \"none\": times the root of head_dim")
          .absent("rms"),
      Option::number("state_norm_eps", 1e-2, 0, 1e6, "of \"rms\"; small values make training chaotic")
          .absent(former_eps),
      Option::choices("state_value", Texts{"token", "attention", "middle"}, {"token", "attention", "middle"},
                      "what is written into the states"),
      Option::choice("cross_head", "concat", {"none", "concat", "additive", "gated"},
                     "middle heads: \"none\", \"concat\", \"additive\" or \"gated\""),
      Option::choice("combine_state", "concat", joins,
                     "how states join the layer's output: \"concat\", \"sum\" or \"learned\""),
      Option::choice("combine_middle", "learned", joins, "how middle heads do"),
      Option::flag("multi_token", true, "queries read the state of the chunk before"),
      Option::integer("chunk", int64_t{256}, 1, "tokens between boundary states"),
      Option::integer("decay_rank", gate_rank, 1, "rank of the decay's projection"),
      Option::integer("rate_rank", gate_rank, 1, "rank of the learning rate's projection"),
      Option::flag("learn_initial_state", false, "the states' start is learned, for state tuning")
          .absent(false),
  };
}

std::vector<Preset> wuneng_presets() {
  const auto kv_heads = [](const ModelConfig& c, const OptionValues&) -> OptionValue {
    return c.num_kv_heads;
  };
  const Preset full = {"full", {}};
  // States alone.
  const Preset lean = {"lean",
                       {{"cross_head", "none"}, {"multi_token", false}, {"state_value", Texts{"token"}}}};
  // The paper's words.
  const Preset literal = {"literal",
                          {{"state_heads", kv_heads},
                           {"token_shift", false},
                           {"state_query", "full"},
                           {"state_key", "shared"},
                           {"state_value", Texts{"attention", "middle"}},
                           {"combine_middle", "concat"}}};
  return {full, lean, literal};
}

void check_wuneng(const ModelConfig& c, const OptionValues& values, const std::string& where) {
  const int64_t N = values.integer("state_heads");
  require(N % c.num_kv_heads == 0 && c.num_heads % N == 0,
          "{}: state_heads = {}: expected a multiple of the {} kv_heads that divides the {} heads", where, N,
          c.num_kv_heads, c.num_heads);
}

WunengOptions::WunengOptions(const OptionValues& v)
    : state_heads(v.integer("state_heads")),
      state_rank(v.integer("state_rank")),
      chunk(v.integer("chunk")),
      decay_rank(v.integer("decay_rank")),
      rate_rank(v.integer("rate_rank")),
      grouped_query(v.text("state_query") == "grouped"),
      own_key(v.text("state_key") == "own"),
      quadratic_read(v.text("state_read") == "quadratic"),
      token_shift(v.flag("token_shift")),
      rms(v.text("state_norm") == "rms"),
      multi_token(v.flag("multi_token")),
      learn_initial_state(v.flag("learn_initial_state")),
      norm_eps(static_cast<float>(v.number("state_norm_eps"))),
      cross_head(v.text("cross_head")),
      combine_state(v.text("combine_state")),
      combine_middle(v.text("combine_middle")) {
  const auto value_from = [&](const char* what) {
    const Texts& from = v.texts("state_value");
    return std::find(from.begin(), from.end(), what) != from.end();
  };
  value_token = value_from("token");
  value_attention = value_from("attention");
  value_middle = middles() && value_from("middle");
}

}  // namespace wuneng

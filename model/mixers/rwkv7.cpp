// RWKV-7 time mixing in the place of attention, as the ARWKV student has it (docs/model.md, "The other
// student").
#include <algorithm>
#include <cmath>

#include "model/mixers/registry.h"
#include "model/state_scan.h"

namespace wuneng {
namespace {

using ops::P;

constexpr const char* kFirstValues = "rwkv7_v_first";  // the first such layer's values, [T, local H D]

struct Rwkv7Options {
  int64_t head_dim, decay_rank, rate_rank, value_rank, gate_rank;
  bool gate, group_norm, learn_initial_state;

  explicit Rwkv7Options(const OptionValues& v)
      : head_dim(v.integer("rwkv_head_dim")),
        decay_rank(v.integer("decay_rank")),
        rate_rank(v.integer("rate_rank")),
        value_rank(v.integer("value_rank")),
        gate_rank(v.integer("gate_rank")),
        gate(v.flag("rwkv_gate")),
        group_norm(v.flag("rwkv_group_norm")),
        learn_initial_state(v.flag("learn_initial_state")) {}
};

HeadShards shards_of(int64_t hidden_size, int64_t head_dim, int ranks, int rank) {
  const int64_t heads = hidden_size / head_dim;
  return HeadShards::make({heads, heads, heads}, ranks, rank);
}

bool is_first(const LayerContext& at) {
  for (int64_t i = 0; i < at.layer; ++i)
    if (at.config.mixer_of(i) == "rwkv7") return false;
  return true;
}

class Rwkv7Mixer : public Mixer {
 public:
  explicit Rwkv7Mixer(const LayerContext& at)
      : o_(at.options()),
        hidden_size_(at.config.hidden_size),
        heads_(shards_of(at.config.hidden_size, o_.head_dim, at.tp.size(), at.tp.rank())),
        first_(is_first(at)) {
    const int64_t C = at.config.hidden_size, D = o_.head_dim;
    const double L = double(at.config.num_layers), from_first = L > 1 ? double(at.layer) / (L - 1) : 0,
                 to_last = 1 - double(at.layer) / L;
    const std::string prefix = at.prefix + "rwkv7.";
    const auto sharded = [&](const char* name, Shape rest, Initializer init) {
      rest.insert(rest.begin(), C);
      return at.store.sharded_by(prefix + name, rest, added(std::move(init)), 0, heads_.heads, D);
    };
    const auto shift = [&](const char* name, double power) {
      return at.store.whole(
          prefix + name, {C},
          added(values([=](int64_t i) { return float(1 - std::pow(double(i) / C, power * to_last)); })),
          true);
    };
    mu_r_ = shift("mu_r", 0.2), mu_w_ = shift("mu_w", 0.9), mu_k_ = shift("mu_k", 0.7);
    mu_v_ = shift("mu_v", 0.7), mu_a_ = shift("mu_a", 0.9);
    // The uniform ones of RWKV-7, +-0.5 / sqrt(C) and for keys a tenth of that, as normal ones as large.
    const float uniform = 0.5f / std::sqrt(3 * float(C));
    r_ = sharded("r_proj.weight", {C}, normal(uniform));
    k_ = sharded("k_proj.weight", {C}, normal(0.1f * uniform));
    v_ = sharded("v_proj.weight", {C}, normal(uniform));
    const auto low_rank = [&](const char* name, int64_t rank) {
      const std::string first = std::string(name) + "1", second = std::string(name) + "2";
      return LowRank{at.store.whole(prefix + first, {rank, C}, added(constant(0)), true),
                     sharded(second.c_str(), {rank}, orthogonal(0.1f))};
    };
    // n: the channel's place in the layer, lin: the same around 0, z: in its head, signed squares.
    const auto per_channel = [=](auto of) {
      return values([=](int64_t i) {
        const double n = C > 1 ? double(i) / (C - 1) : 0, u = D > 1 ? 2.0 * (i % D) / (D - 1) - 1 : 0;
        return float(of(n, n - 0.5, u * std::abs(u)));
      });
    };
    w_ = low_rank("w", o_.decay_rank);
    w0_ = sharded("w0", {}, per_channel([=](double n, double, double z) {
                    return -6 + 6 * std::pow(n, 1 + std::pow(from_first, 0.3)) + 0.5 + 2.5 * z;
                  }));
    a_ = low_rank("a", o_.rate_rank);
    a0_ = sharded("a0", {},
                  per_channel([](double, double lin, double z) { return -0.19 + 0.3 * z + 0.4 * lin; }));
    if (!first_) {
      v12_ = low_rank("v", o_.value_rank);
      v0_ = sharded("v0", {}, per_channel([](double, double lin, double) { return 0.73 - 0.4 * lin; }));
    }
    k_k_ = sharded("k_k", {}, per_channel([](double, double lin, double) { return 0.71 - 0.1 * lin; }));
    k_a_ = sharded("k_a", {}, constant(1.02f));
    r_k_ = sharded("r_k", {}, constant(-0.04f));
    if (o_.group_norm) {
      norm_weight_ = sharded("ln_x.weight", {}, constant(float(std::pow(double(at.layer + 1) / L, 0.7))));
      norm_bias_ = sharded("ln_x.bias", {}, constant(0));
    }
    if (o_.gate) {
      mu_g_ = shift("mu_g", 0.2);
      g_ = {at.store.whole(prefix + "g1", {o_.gate_rank, C}, added(constant(0)), true),
            sharded("g2", {o_.gate_rank}, constant(0))};
    }
    if (o_.learn_initial_state)
      initial_state_ = at.store.sharded_by(prefix + "initial_state", {C / D, D, D},
                                           added_by_option(constant(0)), 0, heads_.heads, 1);
    o_proj_ = at.store.sharded_by(prefix + "o_proj.weight", {C, C}, added(constant(0)), 1, heads_.heads, D);
  }

  Projections forward(Tape& tape, const Var& x, const DocumentLayout& documents, CarriedVars& carried,
                      const LayerCache* cache) const override {
    const int64_t T = x.dim(0), D = o_.head_dim, H = heads_.local_heads();
    const TokenShift shift(tape, x, documents, cache);
    const auto shifted = [&](P mu) { return shift(tape, mu); };
    const auto split = [&](const Var& y) { return ops::reshape(tape, y, {T, H, D}); };
    const auto low_rank = [&](const Var& y, const LowRank& m) {
      return ops::linear(tape, ops::linear(tape, y, m.first), m.second);
    };

    const Var r = split(ops::linear(tape, shifted(mu_r_), r_)), xv = shifted(mu_v_),
              k = ops::linear(tape, shifted(mu_k_), k_);
    const Var decay =
        ops::linear(tape, ops::tanh(tape, ops::linear(tape, shifted(mu_w_), w_.first)), w_.second);
    const Var log_w = split(ops::bias_sigmoid(tape, decay, w0_, -std::exp(-0.5f)));
    const Var rate = ops::bias_sigmoid(tape, low_rank(shifted(mu_a_), a_), a0_, 1.0f);
    Var v = ops::linear(tape, xv, v_);
    if (first_)
      carried[kFirstValues] = v;
    else
      v = ops::mix(tape, ops::bias_sigmoid(tape, low_rank(xv, v12_), v0_, 1.0f), carried.at(kFirstValues), v);
    const Var values = split(v), kappa = ops::l2_norm(tape, split(ops::scale_channels(tape, k, k_k_, 1))),
              key = split(ops::key_scale(tape, k, rate, k_a_));

    const int64_t segments = static_cast<int64_t>(documents.segments.size());
    Var initial = initial_state_ && !cache ? ops::copies(tape, initial_state_, segments) : Var();
    if (cache) {
      cache->begin("state", documents, initial_state_);
      initial = cache->read(tape, "state", documents.slots);
    }
    const ops::ScanGroupPtr scan = ops::state_scan(
        tape, {log_w, key, values, kappa, split(rate), r, initial, documents.segments, heads_.state_of_head},
        cache != nullptr);
    if (cache) cache->write(tape.stream(), "state", documents.slots, scan->scans[0]->final.value());
    Var y = ops::read_state(tape, scan);
    if (o_.group_norm) y = ops::group_norm(tape, y, norm_weight_, norm_bias_, float(D) * 1e-5f);
    y = ops::bonus(tape, ops::scale_channels(tape, r, r_k_, 1), key, values, y);
    y = ops::reshape(tape, y, {T, H * D});
    if (o_.gate) {
      const Var hidden = ops::sigmoid(tape, ops::linear(tape, shifted(mu_g_), g_.first));
      y = ops::gate(tape, y, ops::linear(tape, hidden, g_.second));
    }
    return {{y, o_proj_}};
  }

  CachedTensors cache() const override {
    const int64_t D = o_.head_dim;
    return {token_before(hidden_size_), {"state", CachedTensor::Kind::state, {heads_.local_states(), D, D}}};
  }

 private:
  struct LowRank {
    P first = nullptr, second = nullptr;  // [rank, C], [C, rank]
  };
  Rwkv7Options o_;
  int64_t hidden_size_;
  HeadShards heads_;
  bool first_;
  P mu_r_, mu_w_, mu_k_, mu_v_, mu_a_, mu_g_ = nullptr;
  P r_, k_, v_, o_proj_, w0_, a0_, v0_ = nullptr, k_k_, k_a_, r_k_;
  P norm_weight_ = nullptr, norm_bias_ = nullptr, initial_state_ = nullptr;
  LowRank w_, a_, v12_, g_;
};

// max(32, round(factor sqrt(C) / 32) 32), as RWKV-7 has it.
OptionDefault rank(double factor) {
  return [=](const ModelConfig& c, const OptionValues&) -> OptionValue {
    return std::max<int64_t>(32, std::lround(factor * std::sqrt(double(c.hidden_size)) / 32) * 32);
  };
}

OptionTable rwkv7_options() {
  const auto head_dim = [](const ModelConfig& c, const OptionValues&) -> OptionValue {
    return c.hidden_size % 64 == 0 ? int64_t{64} : c.head_dim;
  };
  return {
      Option::integer("rwkv_head_dim", head_dim, 1,
                      "channels of an RWKV-7 head, default: 64 where it divides hidden_size"),
      Option::flag("rwkv_gate", false, "gates RWKV-7's output"),
      Option::flag("rwkv_group_norm", false, "normalises what RWKV-7's heads read"),
      Option::flag("learn_initial_state", false, "the states' start is learned, for state tuning")
          .absent(false),
      Option::integer("decay_rank", rank(2.5), 1, "rank of the decay's projection"),
      Option::integer("rate_rank", rank(2.5), 1, "rank of the learning rate's projection"),
      Option::integer("value_rank", rank(1.7), 1, "rank of the projection that mixes in the first values"),
      Option::integer("gate_rank", rank(5), 1, "rank of RWKV-7's gate"),
  };
}

// ARWKV's sizes, and RWKV-7's with what ARWKV leaves out.
std::vector<Preset> rwkv7_presets() {
  const int64_t large = 64, small = 32, gate = 128;
  return {
      {"arwkv", {{"decay_rank", large}, {"rate_rank", large}, {"value_rank", small}, {"gate_rank", gate}}},
      {"rwkv7", {{"rwkv_gate", true}, {"rwkv_group_norm", true}}}};
}

}  // namespace

MixerType rwkv7_mixer() {
  MixerType type{.name = "rwkv7",
                 .architecture = "Rwkv7ForCausalLM",
                 .help = "RWKV-7 time mixing (the ARWKV student)",
                 .options = rwkv7_options(),
                 .presets = rwkv7_presets(),
                 .starts_from = {"attention"}};
  type.check = [](const ModelConfig& c, const OptionValues& values, const std::string& where) {
    const int64_t D = values.integer("rwkv_head_dim");
    require(D % 2 == 0 && c.hidden_size % D == 0,
            "{}: rwkv_head_dim = {}: expected an even divisor of hidden_size = {}", where, D, c.hidden_size);
  };
  type.carried = [](const ModelConfig& c, int ranks, int rank) -> std::vector<CarriedTensor> {
    const int64_t D = c.options_of("rwkv7").integer("rwkv_head_dim");
    return {{kFirstValues, shards_of(c.hidden_size, D, ranks, rank).local_heads() * D}};
  };
  type.make = [](const LayerContext& at) { return std::make_unique<Rwkv7Mixer>(at); };
  return type;
}

}  // namespace wuneng

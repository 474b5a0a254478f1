// Plain grouped-query attention, as the families of model/families.h have it (docs/model.md, Eq. 2 without
// states).
#include <cmath>

#include "model/mixers/registry.h"

namespace wuneng {

AttentionProjections AttentionProjections::make(const LayerContext& at, const HeadShards& heads) {
  const ModelConfig& c = at.config;
  const int64_t d = c.hidden_size, D = c.head_dim, H = c.num_heads, G = c.num_kv_heads;
  const auto rows = [&](const char* name, int64_t n, const std::vector<Range>& ranges, ops::P& weight,
                        ops::P& bias) {
    weight =
        at.store.sharded_by(at.prefix + name + ".weight", {n * D, d}, copied(normal(0.02f)), 0, ranges, D);
    if (c.qkv_bias)
      bias = at.store.sharded_by(at.prefix + name + ".bias", {n * D}, copied(constant(0)), 0, ranges, D);
  };
  const auto norm = [&](const char* name) {  // each rank norms its own heads
    return at.store.whole(at.prefix + name + ".weight", {D}, copied(constant(1)), true);
  };
  AttentionProjections p;
  p.norm_eps = c.rms_norm_eps;
  rows("q_proj", H, heads.heads, p.q, p.q_bias);
  rows("k_proj", G, heads.kv, p.k, p.k_bias);
  rows("v_proj", G, heads.kv, p.v, p.v_bias);
  if (c.qk_norm) p.q_norm = norm("q_norm"), p.k_norm = norm("k_norm");
  p.o = at.store.sharded_by(at.prefix + "o_proj.weight", {d, H * D},
                            copied(normal(0.02f / std::sqrt(2.0f * c.num_layers))), 1, heads.heads, D);
  return p;
}

Var AttentionProjections::normed(Tape& tape, const Var& heads, ops::P norm) const {
  if (!norm) return heads;
  const int64_t T = heads.dim(0), n = heads.dim(1), D = heads.dim(2);
  const Var rows = ops::reshape(tape, heads, {T * n, D});
  return ops::reshape(tape, ops::rms_norm(tape, rows, norm, norm_eps), {T, n, D});
}

namespace {

class AttentionMixer : public Mixer {
 public:
  explicit AttentionMixer(const LayerContext& at)
      : head_dim_(at.config.head_dim),
        heads_(HeadShards::make({at.config.num_heads, at.config.num_kv_heads}, at.tp.size(), at.tp.rank())),
        weights_(AttentionProjections::make(at, heads_)),
        window_(at.config.window_of(at.layer)) {}

  Projections forward(Tape& tape, const Var& x, const DocumentLayout& documents, CarriedVars&,
                      const LayerCache* cache) const override {
    const int64_t T = x.dim(0), D = head_dim_, H = heads_.local_heads(), G = heads_.local_kv();
    const auto heads = [&](ops::P weight, ops::P bias, int64_t n) {
      return ops::reshape(tape, ops::linear(tape, x, weight, bias), {T, n, D});
    };
    const auto rotated = [&](const Var& y, ops::P norm) {
      return ops::rope(tape, weights_.normed(tape, y, norm), documents.rope_cos_sin);
    };
    const Var q = rotated(heads(weights_.q, weights_.q_bias, H), weights_.q_norm);
    Var k = rotated(heads(weights_.k, weights_.k_bias, G), weights_.k_norm);
    Var v = heads(weights_.v, weights_.v_bias, G);
    if (cache) k = cache->append(tape, "k", k, documents), v = cache->append(tape, "v", v, documents);
    const Var A = ops::attention(tape, q, k, v, documents.attention, heads_.kv_of_head, window_,
                                 documents.attention_table);
    return {{ops::reshape(tape, A, {T, H * D}), weights_.o}};
  }

  CachedTensors cache() const override {
    const Shape row = {heads_.local_kv(), head_dim_};
    return {{"k", CachedTensor::Kind::token, row}, {"v", CachedTensor::Kind::token, row}};
  }

 private:
  int64_t head_dim_;
  HeadShards heads_;
  AttentionProjections weights_;
  int64_t window_;
};

}  // namespace

MixerType attention_mixer() {
  MixerType type{
      .name = "attention", .former_name = "qwen2", .architecture = "", .help = "grouped-query attention"};
  type.make = [](const LayerContext& at) { return std::make_unique<AttentionMixer>(at); };
  return type;
}

}  // namespace wuneng

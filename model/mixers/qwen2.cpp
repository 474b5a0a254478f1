// Plain grouped-query attention of Qwen2 (docs/model.md, Eq. 2 without states).
#include <cmath>

#include "model/mixers/registry.h"

namespace wuneng {

Qwen2Projections Qwen2Projections::make(const LayerContext& at, const HeadShards& heads) {
  const ModelConfig& c = at.config;
  const int64_t d = c.hidden_size, D = c.head_dim, H = c.num_heads, G = c.num_kv_heads;
  const auto rows = [&](const char* name, int64_t n, const std::vector<Range>& ranges) {
    return std::pair{
        at.store.sharded_by(at.prefix + name + ".weight", {n * D, d}, copied(normal(0.02f)), 0, ranges, D),
        at.store.sharded_by(at.prefix + name + ".bias", {n * D}, copied(constant(0)), 0, ranges, D)};
  };
  Qwen2Projections p;
  std::tie(p.q, p.q_bias) = rows("q_proj", H, heads.heads);
  std::tie(p.k, p.k_bias) = rows("k_proj", G, heads.kv);
  std::tie(p.v, p.v_bias) = rows("v_proj", G, heads.kv);
  p.o = at.store.sharded_by(at.prefix + "o_proj.weight", {d, H * D},
                            copied(normal(0.02f / std::sqrt(2.0f * c.num_layers))), 1, heads.heads, D);
  return p;
}

namespace {

class Qwen2Mixer : public Mixer {
 public:
  explicit Qwen2Mixer(const LayerContext& at)
      : head_dim_(at.config.head_dim),
        tp_(at.tp),
        heads_(HeadShards::make({at.config.num_heads, at.config.num_kv_heads}, at.tp.size(), at.tp.rank())),
        weights_(Qwen2Projections::make(at, heads_)) {}

  Projections forward(Tape& tape, const Var& replicated, const DocumentLayout& documents, CarriedVars&,
                      const LayerCache* cache) const override {
    const int64_t T = replicated.dim(0), D = head_dim_, H = heads_.local_heads(), G = heads_.local_kv();
    const Var x = copy_to_tensor_parallel(tape, tp_, replicated);
    const auto heads = [&](const Parameter* weight, const Parameter* bias, int64_t n) {
      return ops::reshape(tape, ops::linear(tape, x, weight, bias), {T, n, D});
    };
    const Var q = ops::rope(tape, heads(weights_.q, weights_.q_bias, H), documents.rope_cos_sin);
    Var k = ops::rope(tape, heads(weights_.k, weights_.k_bias, G), documents.rope_cos_sin);
    Var v = heads(weights_.v, weights_.v_bias, G);
    if (cache) k = cache->append(tape, "k", k, documents), v = cache->append(tape, "v", v, documents);
    const Var A = ops::attention(tape, q, k, v, documents.attention, heads_.kv_of_head);
    return {{ops::reshape(tape, A, {T, H * D}), weights_.o}};
  }

  CachedTensors cache() const override {
    const Shape row = {heads_.local_kv(), head_dim_};
    return {{"k", CachedTensor::Kind::token, row}, {"v", CachedTensor::Kind::token, row}};
  }

 private:
  int64_t head_dim_;
  Comm tp_;
  HeadShards heads_;
  Qwen2Projections weights_;
};

}  // namespace

MixerType qwen2_mixer() {
  MixerType type{.name = "qwen2", .architecture = "Qwen2ForCausalLM", .help = "attention as in Qwen2"};
  type.make = [](const LayerContext& at) { return std::make_unique<Qwen2Mixer>(at); };
  return type;
}

}  // namespace wuneng

// Plain grouped-query attention of Qwen2 (model.md Eq. 2 without states).
#include "model/mixer.h"

namespace wuneng {

Qwen2Projections Qwen2Projections::make(const ModelConfig& c, ParameterStore& store, const HeadShards& heads,
                                        const std::string& prefix) {
  const int64_t d = c.hidden_size, D = c.head_dim, H = c.num_heads, G = c.num_kv_heads;
  const auto rows = [&](const char* name, int64_t n, const std::vector<Range>& ranges) {
    return std::pair{store.sharded_by(prefix + name + ".weight", {n * D, d}, 0, ranges, D),
                     store.sharded_by(prefix + name + ".bias", {n * D}, 0, ranges, D)};
  };
  Qwen2Projections p;
  std::tie(p.q, p.q_bias) = rows("q_proj", H, heads.heads);
  std::tie(p.k, p.k_bias) = rows("k_proj", G, heads.kv);
  std::tie(p.v, p.v_bias) = rows("v_proj", G, heads.kv);
  p.o = store.sharded_by(prefix + "o_proj.weight", {d, H * D}, 1, heads.heads, D);
  return p;
}

namespace {

class AttentionMixer : public Mixer {
 public:
  AttentionMixer(const ModelConfig& config, ParameterStore& store, const Comm& tp, const std::string& prefix)
      : config_(config),
        tp_(tp),
        heads_(HeadShards::make(config, tp.size(), tp.rank())),
        weights_(Qwen2Projections::make(config, store, heads_, prefix)) {}

  Projections forward(Tape& tape, const Var& replicated, const Packing& packing) const override {
    const int64_t T = replicated.dim(0), D = config_.head_dim, H = heads_.local_heads(),
                  G = heads_.local_kv();
    const Var x = copy_to_tensor_parallel(tape, tp_, replicated);
    const auto heads = [&](const Parameter* weight, const Parameter* bias, int64_t n) {
      return ops::reshape(tape, ops::linear(tape, x, weight, bias), {T, n, D});
    };
    const Var q = ops::rope(tape, heads(weights_.q, weights_.q_bias, H), packing.rope_cos_sin);
    const Var k = ops::rope(tape, heads(weights_.k, weights_.k_bias, G), packing.rope_cos_sin);
    const Var v = heads(weights_.v, weights_.v_bias, G);
    const Var A = ops::attention(tape, q, k, v, packing.attention, heads_.kv_of_head);
    return {{ops::reshape(tape, A, {T, H * D}), weights_.o}};
  }

 private:
  ModelConfig config_;
  Comm tp_;
  HeadShards heads_;
  Qwen2Projections weights_;
};

}  // namespace

std::unique_ptr<Mixer> make_attention_mixer(const ModelConfig& config, ParameterStore& store, const Comm& tp,
                                            const std::string& prefix) {
  return std::make_unique<AttentionMixer>(config, store, tp, prefix);
}

}  // namespace wuneng

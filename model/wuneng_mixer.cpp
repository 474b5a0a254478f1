// The hybrid mixer: attention heads, RWKV-7 state heads, middle heads between them, queries that read the
// state (docs/model.md, "One layer").
#include <cmath>

#include "model/mixer.h"
#include "model/state_scan.h"

namespace wuneng {
namespace {

using ops::P;

// W of model.md, whole or as a product of two matrices of state_rank.
struct StateProjection {
  P whole = nullptr, first = nullptr, second = nullptr;
  Var operator()(Tape& tape, const Var& x) const {
    return whole ? ops::linear(tape, x, whole) : ops::linear(tape, ops::linear(tape, x, first), second);
  }
};

class WunengMixer : public Mixer {
 public:
  WunengMixer(const ModelConfig& config, ParameterStore& store, const Comm& tp, const std::string& prefix)
      : c_(config),
        o_(config.wuneng),
        tp_(tp),
        heads_(HeadShards::make(config, tp.size(), tp.rank())),
        qwen_(Qwen2Projections::make(config, store, heads_, prefix)) {
    const int64_t d = c_.hidden_size, D = c_.head_dim, H = c_.num_heads, N = o_.state_heads;
    const std::string at = prefix + "state.";
    const auto projection = [&](const std::string& name, int64_t n, const std::vector<Range>& ranges) {
      StateProjection p;
      if (!o_.state_rank) {
        p.whole = store.sharded_by(at + name + ".weight", {n * D, d}, 0, ranges, D);
        return p;
      }
      p.first = store.whole(at + name + ".first.weight", {o_.state_rank, d}, true);
      p.second = store.sharded_by(at + name + ".second.weight", {n * D, o_.state_rank}, 0, ranges, D);
      return p;
    };
    const auto per_head = [&](const char* name, Shape rest) {
      rest.insert(rest.begin(), H);
      return store.sharded_by(at + name, rest, 0, heads_.heads, 1);
    };
    const auto per_state = [&](const char* name) {
      return store.sharded_by(at + name, {N * D}, 0, heads_.state, D);
    };

    grouped_ = o_.state_query == "grouped";
    r_proj_ = grouped_ ? projection("r_proj", N, heads_.state) : projection("r_proj", H, heads_.heads);
    if (grouped_) r_head_ = per_head("r_head", {D, D});
    kappa_proj_ = projection("kappa_proj", N, heads_.state);
    if (o_.state_key == "own") key_proj_ = projection("state_k_proj", N, heads_.state);
    w1_ = store.whole(at + "w1", {o_.decay_rank, d}, true);
    w2_ = store.sharded_by(at + "w2", {N * D, o_.decay_rank}, 0, heads_.state, D);
    w0_ = per_state("w0");
    a1_ = store.whole(at + "a1", {o_.rate_rank, d}, true);
    a2_ = store.sharded_by(at + "a2", {N * D, o_.rate_rank}, 0, heads_.state, D);
    a0_ = per_state("a0");
    k_a_ = per_state("k_a");
    if (o_.token_shift)
      for (auto& [name, mu] : {std::pair{"mu_r", &mu_r_},
                               {"mu_k", &mu_k_},
                               {"mu_kappa", &mu_kappa_},
                               {"mu_w", &mu_w_},
                               {"mu_a", &mu_a_}})
        *mu = store.whole(at + name, {d}, true);
    state_norm_ = store.sharded_by(at + "state_norm", {H * D}, 0, heads_.heads, D);
    alpha_ = per_head("alpha", {});
    if (o_.middles()) beta_ = per_head("beta", {}), gamma_ = per_head("gamma", {});
    if (o_.value_from("attention")) value_attention_ = per_head("value_attention", {D, D});
    if (o_.middle_feedback()) value_middle_ = per_head("value_middle", {D, D});
    if (o_.state_read == "quadratic") khat_ = per_head("khat", {D, D});
    if (o_.middles()) mid_ = per_head("mid", {D, D});
    if (o_.cross_head == "additive") mid_state_ = per_head("mid_state", {D, D});
    if (o_.cross_head == "gated") gate_ = per_head("gate", {D, 2 * D});
    if (o_.multi_token) lambda_ = per_head("lambda", {}), query_state_ = per_head("query_state", {D, D});
    const auto joins = [&](const std::string& how, const char* output, const char* mix, P& o, P& m) {
      if (how == "concat") o = store.sharded_by(at + output, {d, H * D}, 1, heads_.heads, D);
      if (how == "learned") m = per_head(mix, {D, D});
    };
    joins(o_.combine_state, "o_state", "mix_state", o_state_, mix_state_);
    if (o_.middles()) joins(o_.combine_middle, "o_middle", "mix_middle", o_middle_, mix_middle_);
  }

  Projections forward(Tape& tape, const Var& replicated, const Packing& packing) const override {
    const int64_t T = replicated.dim(0), D = c_.head_dim, H = heads_.local_heads(), G = heads_.local_kv(),
                  N = heads_.local_states();
    const Var x = copy_to_tensor_parallel(tape, tp_, replicated);
    const auto split = [&](const Var& y, int64_t n) { return ops::reshape(tape, y, {T, n, D}); };
    const auto state_input = [&](P mu) {
      return mu ? ops::token_shift(tape, x, mu, packing.document_boundaries) : x;
    };

    const Var k_plain = ops::linear(tape, x, qwen_.k);
    const Var k = ops::rope(tape, split(ops::add_bias(tape, k_plain, qwen_.k_bias), G), packing.rope_cos_sin);
    const Var v = split(ops::linear(tape, x, qwen_.v, qwen_.v_bias), G);

    // Everything about the states that no state feeds: parallel over all tokens.
    Inputs in;
    in.q = split(ops::linear(tape, x, qwen_.q, qwen_.q_bias), H);
    const Var r = r_proj_(tape, state_input(mu_r_));
    in.r = ops::l2_norm(
        tape,
        grouped_ ? ops::head_linear(tape, ops::select_heads(tape, split(r, N), heads_.state_of_head), r_head_)
                 : split(r, H));
    in.kappa = ops::l2_norm(tape, split(kappa_proj_(tape, state_input(mu_kappa_)), N));
    const float scale = -std::exp(-0.5f);
    const Var decay = ops::linear(tape, ops::tanh(tape, ops::linear(tape, state_input(mu_w_), w1_)), w2_);
    in.log_w = split(ops::bias_sigmoid(tape, decay, w0_, scale), N);
    const Var rate = ops::bias_sigmoid(
        tape, ops::linear(tape, ops::linear(tape, state_input(mu_a_), a1_), a2_), a0_, 1.0f);
    in.rate = split(rate, N);
    const Var key = key_proj_.whole || key_proj_.first
                        ? ops::l2_norm(tape, split(key_proj_(tape, state_input(mu_k_)), N))
                        : ops::select_heads(tape, ops::l2_norm(tape, split(k_plain, G)), heads_.kv_of_state);
    in.key = split(ops::key_scale(tape, ops::reshape(tape, key, {T, N * D}), rate, k_a_), N);
    if (o_.value_from("token")) in.token_value = ops::select_heads(tape, v, heads_.kv_of_state);

    // What goes through the states: step by step where the boundary state feeds the tokens of the next chunk,
    // else at once.
    Var A, z;
    if (o_.loops()) {
      const auto by_chunk_step = [&](const Var& y) {
        return y.defined() ? ops::split_rows(tape, ops::pack_rows(tape, y, packing.chunk_step_order),
                                             packing.chunk_step_rows)
                           : std::vector<Var>(packing.chunk_steps.size());
      };
      const auto whole = [&](const std::vector<Var>& pieces) {
        return ops::pack_rows(tape, ops::join_rows(tape, pieces), packing.documents_order);
      };
      const std::vector<Var> q = by_chunk_step(in.q), r = by_chunk_step(in.r), key = by_chunk_step(in.key),
                             kappa = by_chunk_step(in.kappa), log_w = by_chunk_step(in.log_w),
                             rates = by_chunk_step(in.rate), token_value = by_chunk_step(in.token_value);
      std::vector<Var> As, zs;
      Var boundary;
      for (size_t j = 0; j < packing.chunk_steps.size(); ++j) {
        const bool last = j + 1 == packing.chunk_steps.size();
        const Outputs out =
            chunk_step_forward(tape, {q[j], r[j], key[j], kappa[j], log_w[j], rates[j], token_value[j]}, k, v,
                               packing.chunk_steps[j], boundary, !last);
        As.push_back(out.A);
        zs.push_back(out.z);
        if (!last) boundary = ops::pack_rows(tape, out.final, packing.chunk_steps[j + 1].continuing);
      }
      A = whole(As);
      z = whole(zs);
    } else {
      const Var q = ops::rope(tape, in.q, packing.rope_cos_sin);
      A = ops::attention(tape, q, k, v, packing.attention, heads_.kv_of_head);
      const ops::ScanPtr scan = ops::state_scan(tape,
                                                {in.log_w,
                                                 in.key,
                                                 state_value(tape, in.token_value, A, {}),
                                                 in.kappa,
                                                 in.rate,
                                                 in.r,
                                                 {},
                                                 packing.segments,
                                                 heads_.state_of_head},
                                                false);
      z = read(tape, scan);
    }
    return combine(tape, A, z);
  }

 private:
  // Per token, from x alone: q [T, H, D] before rotation, r [T, H, D], the rest [T, N, D].
  struct Inputs {
    Var q, r, key, kappa, log_w, rate, token_value;
  };
  struct Outputs {
    Var A, z, final;
  };

  // One chunk of every document that reaches it; boundary is undefined before the first, where the state is
  // zero.
  Outputs chunk_step_forward(Tape& tape, const Inputs& in, const Var& k, const Var& v, const ChunkStep& step,
                             const Var& boundary, bool want_final) const {
    const Var zb = boundary.defined() ? read_at_boundary(tape, boundary, in.r, step) : Var();
    Var q = in.q;
    if (o_.multi_token && zb.defined())
      q = ops::add_scaled_heads(tape, q, ops::head_linear(tape, zb, query_state_), lambda_);  // Eq. 11
    q = ops::rope(tape, q, step.rope_cos_sin);
    const Var A = ops::attention(tape, q, k, v, step.attention, heads_.kv_of_head);  // Eq. 12
    const Var Mb = o_.middle_feedback() ? middle(tape, A, zb) : Var();
    const Var value = state_value(tape, in.token_value, A, Mb);
    const ops::ScanPtr scan = ops::state_scan(
        tape,
        {in.log_w, in.key, value, in.kappa, in.rate, in.r, boundary, step.segments, heads_.state_of_head},
        want_final);
    return {A, read(tape, scan), scan->final};
  }

  // v_s (Eq. 4, 9): the token's value, and what the group's attention and middle heads feed back. Where ranks
  // share a state head each adds its own query heads' part; the token's value is whole on each.
  Var state_value(Tape& tape, const Var& token, const Var& A, const Var& Mb) const {
    Var parts;
    if (value_attention_) parts = ops::head_linear(tape, A, value_attention_);
    if (value_middle_) parts = ops::head_linear(tape, Mb, value_middle_, parts);
    if (!parts.defined()) {
      // "middle" may be asked for where there are no middle heads: then nothing feeds the state.
      return token.defined() ? token
                             : Var(Tensor::zeros({A.dim(0), heads_.local_states(), c_.head_dim},
                                                 A.value().dtype(), tape.stream().device));
    }
    Var value = ops::sum_heads(tape, parts, heads_.state_of_head, heads_.local_states());
    value = sum_shared_heads(tape, tp_, value, heads_.shared_states, heads_.shared_slots);
    return token.defined() ? ops::add(tape, value, token) : value;
  }

  // z_h: S r, or S^T K^ (S r), normalised or scaled (Eq. 2).
  Var read(Tape& tape, const ops::ScanPtr& scan) const {
    Var y = scan->y;
    if (khat_) y = ops::read_state_transposed(tape, scan, ops::head_linear(tape, y, khat_));
    return normalised(tape, y);
  }

  Var normalised(Tape& tape, const Var& y) const {
    return o_.state_norm == "rms"
               ? ops::rms_norm(tape, y, state_norm_, static_cast<float>(o_.state_norm_eps))
               : ops::scale_channels(tape, y, state_norm_, std::sqrt(static_cast<float>(c_.head_dim)));
  }

  Var read_at_boundary(Tape& tape, const Var& boundary, const Var& r, const ChunkStep& step) const {
    Var y = ops::read_boundary(tape, boundary, r, step.segments, heads_.state_of_head, false);
    if (khat_)
      y = ops::read_boundary(tape, boundary, ops::head_linear(tape, y, khat_), step.segments,
                             heads_.state_of_head, true);
    return normalised(tape, y);
  }

  // M_h (Eq. 6, 7, 8); z undefined: zero.
  Var middle(Tape& tape, const Var& A, const Var& z) const {
    if (o_.cross_head == "concat")
      return ops::silu(
          tape, ops::head_linear(tape, z.defined() ? ops::add_scaled_heads(tape, A, z, beta_) : A, mid_));
    if (o_.cross_head == "additive") {
      const Var from_attention = ops::head_linear(tape, A, mid_);
      if (!z.defined()) return ops::silu(tape, from_attention);
      return ops::silu(
          tape, ops::add_scaled_heads(tape, from_attention, ops::head_linear(tape, z, mid_state_), beta_));
    }
    if (!z.defined())
      return middle(tape, A, Var(Tensor::zeros(A.shape(), A.value().dtype(), tape.stream().device)));
    const Var g = ops::sigmoid(tape, ops::head_linear(tape, ops::concat(tape, A, z), gate_));
    return ops::silu(tape,
                     ops::head_linear(tape, ops::mix(tape, g, A, ops::scale_heads(tape, z, beta_)), mid_));
  }

  // F of {A + gamma M}, {alpha z}, {M} (Eq. 6), through the output projections: the layer's one sum over
  // ranks.
  Projections combine(Tape& tape, const Var& A, const Var& z) const {
    const int64_t T = A.dim(0), width = A.dim(1) * A.dim(2);
    const auto flat = [&](const Var& heads) { return ops::reshape(tape, heads, {T, width}); };
    Var first = A;
    Projections projections;
    const auto join = [&](const Var& heads, P output, P mix) {
      if (output)
        projections.push_back({flat(heads), output});
      else
        first = mix ? ops::head_linear(tape, heads, mix, first) : ops::add(tape, first, heads);
    };
    if (o_.middles()) {
      const Var M = middle(tape, A, z);
      first = ops::add_scaled_heads(tape, A, M, gamma_);
      join(M, o_middle_, mix_middle_);
    }
    join(ops::scale_heads(tape, z, alpha_), o_state_, mix_state_);
    projections.push_back({flat(first), qwen_.o});
    return projections;
  }

  ModelConfig c_;
  WunengConfig o_;
  Comm tp_;
  HeadShards heads_;
  Qwen2Projections qwen_;
  bool grouped_ = false;
  StateProjection r_proj_, kappa_proj_, key_proj_;
  P r_head_ = nullptr, w0_ = nullptr, w1_ = nullptr, w2_ = nullptr, a0_ = nullptr, a1_ = nullptr,
    a2_ = nullptr, k_a_ = nullptr;
  P mu_r_ = nullptr, mu_k_ = nullptr, mu_kappa_ = nullptr, mu_w_ = nullptr, mu_a_ = nullptr;
  P state_norm_ = nullptr, alpha_ = nullptr, beta_ = nullptr, gamma_ = nullptr, lambda_ = nullptr;
  P value_attention_ = nullptr, value_middle_ = nullptr, khat_ = nullptr, mid_ = nullptr,
    mid_state_ = nullptr, gate_ = nullptr;
  P query_state_ = nullptr, o_state_ = nullptr, o_middle_ = nullptr, mix_state_ = nullptr,
    mix_middle_ = nullptr;
};

}  // namespace

std::unique_ptr<Mixer> make_wuneng_mixer(const ModelConfig& config, ParameterStore& store, const Comm& tp,
                                         const std::string& prefix) {
  return std::make_unique<WunengMixer>(config, store, tp, prefix);
}

}  // namespace wuneng

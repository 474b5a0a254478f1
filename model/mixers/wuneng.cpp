// The hybrid mixer: attention heads, RWKV-7 state heads, middle heads between them, queries that read the
// state (docs/model.md, "One layer").
#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "model/low_rank.h"
#include "model/mixers/wuneng_options.h"
#include "model/recordings.h"
#include "model/state_scan.h"

namespace wuneng {
namespace {

using ops::P;

Initializer by_fan_in(int64_t inputs) { return normal(1 / std::sqrt(float(inputs))); }

class WunengMixer : public Mixer {
 public:
  explicit WunengMixer(const LayerContext& at)
      : c_(at.config),
        o_(at.options()),
        tp_(at.tp),
        heads_(HeadShards::make({c_.num_heads, c_.num_kv_heads, o_.state_heads}, tp_.size(), tp_.rank())),
        attention_(AttentionProjections::make(at, heads_)),
        window_(c_.window_of(at.layer)) {
    const int64_t d = c_.hidden_size, D = c_.head_dim, H = c_.num_heads, N = o_.state_heads;
    const std::string state = at.prefix + "state.";
    // As RWKV-7 starts its layers: by the layer's place between the first and the last.
    const double L = double(c_.num_layers), from_first = L > 1 ? at.layer / (L - 1) : 0,
                 to_last = 1 - at.layer / L;
    const auto whole = [&](const char* name, Shape shape, Initializer init) {
      return at.store.whole(state + name, std::move(shape), added(std::move(init)), true);
    };
    const auto per_head = [&](const char* name, Shape rest, Init init) {
      rest.insert(rest.begin(), H);
      return at.store.sharded_by(state + name, rest, std::move(init), 0, heads_.heads, 1);
    };
    const auto per_state = [&](const char* name, Shape rest, Initializer init) {
      rest.insert(rest.begin(), N * D);
      return at.store.sharded_by(state + name, rest, added(std::move(init)), 0, heads_.state, D);
    };
    const Initializer ones = constant(1), zeros = constant(0), square = by_fan_in(D);

    const auto projection = [&](const char* name, int64_t n, const std::vector<Range>& ranges,
                                LowRankProjection::Target teacher) {
      return LowRankProjection::make(at.store, state + name, {n * D, d}, o_.state_rank, ranges, D, teacher);
    };
    const auto query = [attention = at.prefix, c = c_, o = o_](const SourceRows& teacher) {
      return teacher_query(c, o, attention, teacher);
    };
    const auto key = [attention = at.prefix, c = c_, o = o_](const SourceRows& teacher) {
      return teacher_key(c, o, attention, teacher);
    };
    if (o_.grouped_query) {
      r_proj_ = projection("r_proj", N, heads_.state, query);
      const auto identity = [=](int64_t i) { return float(i / D % D == i % D); };
      r_head_ = per_head("r_head", {D, D}, added(normal(0.1f / std::sqrt(float(D)), identity)));
    } else {
      r_proj_ = projection("r_proj", H, heads_.heads, query);
    }
    kappa_proj_ = projection("kappa_proj", N, heads_.state, key);
    if (o_.own_key) key_proj_ = projection("state_k_proj", N, heads_.state, key);

    const auto low_rank = [&](int64_t rank) {
      return normal(0.1f / std::sqrt(float(std::max(N * D, rank))));
    };
    const auto per_channel = [=](double (*of)(double n, double z, double from_first)) {
      return values([=](int64_t i) {  // n: the channel's place in the layer, u and z: in its head
        const double n = N * D > 1 ? double(i) / (N * D - 1) : 0, u = D > 1 ? 2.0 * (i % D) / (D - 1) - 1 : 0;
        return float(of(n, u * std::abs(u), from_first));
      });
    };
    w1_ = whole("w1", {o_.decay_rank, d}, zeros);
    w2_ = per_state("w2", {o_.decay_rank}, low_rank(o_.decay_rank));
    w0_ = per_state("w0", {}, per_channel([](double n, double z, double l) {
                      return -6 + 6 * std::pow(n, 1 + std::pow(l, 0.3)) + 0.5 + 2.5 * z;
                    }));
    a1_ = whole("a1", {o_.rate_rank, d}, zeros);
    a2_ = per_state("a2", {o_.rate_rank}, low_rank(o_.rate_rank));
    a0_ = per_state(
        "a0", {}, per_channel([](double n, double z, double) { return -0.19 + 0.3 * z + 0.4 * (n - 0.5); }));
    k_a_ = per_state("k_a", {}, ones);
    if (o_.token_shift)
      for (const auto& [name, power, mu] : {std::tuple{"mu_r", 0.2, &mu_r_},
                                            {"mu_k", 0.7, &mu_k_},
                                            {"mu_kappa", 0.7, &mu_kappa_},
                                            {"mu_w", 0.9, &mu_w_},
                                            {"mu_a", 0.9, &mu_a_}})
        *mu = whole(name, {d}, values([=, power = power](int64_t i) {
                      return float(1 - std::pow(double(i) / d, power * to_last));
                    }));
    if (o_.learn_initial_state)
      initial_state_ =
          at.store.sharded_by(state + "initial_state", {N, D, D}, added_by_option(zeros), 0, heads_.state, 1);
    state_norm_ = at.store.sharded_by(state + "state_norm", {H * D}, added(ones), 0, heads_.heads, D);

    // What joins the layer's output starts so that it adds nothing to the teacher's attention.
    alpha_ = per_head("alpha", {}, added(ones, o_.combine_state == "sum" ? zeros : ones));
    if (o_.middles()) {
      beta_ = per_head("beta", {}, added(ones));
      gamma_ = per_head("gamma", {}, added(zeros));
    }
    if (o_.value_attention) value_attention_ = per_head("value_attention", {D, D}, value_start());
    if (o_.value_middle) value_middle_ = per_head("value_middle", {D, D}, added(zeros));
    if (o_.quadratic_read) khat_ = per_head("khat", {D, D}, added(square));
    // Middles that are summed start as M = silu(0) = 0.
    const Init mid = added(square, o_.combine_middle == "sum" ? zeros : square);
    if (o_.middles()) mid_ = per_head("mid", {D, D}, mid);
    if (o_.cross_head == "additive") mid_state_ = per_head("mid_state", {D, D}, mid);
    if (o_.cross_head == "gated") gate_ = per_head("gate", {D, 2 * D}, added(by_fan_in(2 * D)));
    if (o_.multi_token) {
      lambda_ = per_head("lambda", {}, added(zeros));
      query_state_ = per_head("query_state", {D, D}, added(square));
    }
    const auto joins = [&](const std::string& how, const char* output, const char* mix, P& o, P& m) {
      if (how == "concat")
        o = at.store.sharded_by(state + output, {d, H * D}, added(zeros), 1, heads_.heads, D);
      if (how == "learned") m = per_head(mix, {D, D}, added(zeros));
    };
    joins(o_.combine_state, "o_state", "mix_state", o_state_, mix_state_);
    if (o_.middles()) joins(o_.combine_middle, "o_middle", "mix_middle", o_middle_, mix_middle_);
  }

  int64_t chunk() const override { return o_.loops() ? o_.chunk : 0; }

  Projections forward(Tape& tape, const Var& x, const DocumentLayout& documents, CarriedVars&,
                      const LayerCache* cache) const override {
    const int64_t T = x.dim(0), D = c_.head_dim, H = heads_.local_heads(), G = heads_.local_kv(),
                  N = heads_.local_states();
    const auto split = [&](const Var& y, int64_t n) { return ops::reshape(tape, y, {T, n, D}); };
    std::optional<TokenShift> shift;
    if (o_.token_shift) shift.emplace(tape, x, documents, cache);
    const auto state_input = [&](P mu) { return mu ? (*shift)(tape, mu) : x; };

    const Var k_plain = ops::linear(tape, x, attention_.k);
    const Var k_biased = attention_.k_bias ? ops::add_bias(tape, k_plain, attention_.k_bias) : k_plain;
    const Var k = ops::rope(tape, attention_.normed(tape, split(k_biased, G), attention_.k_norm),
                            documents.rope_cos_sin);
    const Var v = split(ops::linear(tape, x, attention_.v, attention_.v_bias), G);

    // Everything about the states that no state feeds: parallel over all tokens.
    Inputs in;
    in.q = attention_.normed(tape, split(ops::linear(tape, x, attention_.q, attention_.q_bias), H),
                             attention_.q_norm);
    const Var r = r_proj_(tape, state_input(mu_r_));
    in.r = ops::l2_norm(
        tape,
        r_head_ ? ops::head_linear(tape, ops::select_heads(tape, split(r, N), heads_.state_of_head), r_head_)
                : split(r, H));
    in.kappa = ops::l2_norm(tape, split(kappa_proj_(tape, state_input(mu_kappa_)), N));
    const float scale = -std::exp(-0.5f);
    const Var decay = ops::linear(tape, ops::tanh(tape, ops::linear(tape, state_input(mu_w_), w1_)), w2_);
    in.log_w = split(ops::bias_sigmoid(tape, decay, w0_, scale), N);
    const Var rate = ops::bias_sigmoid(
        tape, ops::linear(tape, ops::linear(tape, state_input(mu_a_), a1_), a2_), a0_, 1.0f);
    in.rate = split(rate, N);
    const Var key = key_proj_.defined()
                        ? ops::l2_norm(tape, split(key_proj_(tape, state_input(mu_k_)), N))
                        : ops::select_heads(tape, ops::l2_norm(tape, split(k_plain, G)), heads_.kv_of_state);
    in.key = split(ops::key_scale(tape, ops::reshape(tape, key, {T, N * D}), rate, k_a_), N);
    if (o_.value_token) in.token_value = ops::select_heads(tape, v, heads_.kv_of_state);

    // What is attended to, and the states before the documents.
    const Var keys = cache ? cache->append(tape, "k", k, documents) : k,
              values = cache ? cache->append(tape, "v", v, documents) : v;
    if (cache) cache->begin("state", documents, initial_state_);

    // What goes through the states: step by step where the boundary state feeds the tokens of the next chunk,
    // else at once.
    Var A, z;
    if (o_.loops()) {
      std::tie(A, z) = chunk_steps(tape, in, keys, values, documents, cache);
    } else {
      const Var q = ops::rope(tape, in.q, documents.rope_cos_sin);
      A = ops::attention(tape, q, keys, values, documents.attention, heads_.kv_of_head, window_,
                         documents.attention_table);
      const Var before =
          cache ? cache->read(tape, "state", documents.slots) : initial(tape, documents.segments.size());
      const ops::ScanGroupPtr scan =
          ops::state_scan(tape,
                          {in.log_w, in.key, state_value(tape, in.token_value, A, {}), in.kappa, in.rate,
                           in.r, before, documents.segments, heads_.state_of_head},
                          cache != nullptr);
      if (cache) cache->write(tape.stream(), "state", documents.slots, scan->scans[0]->final.value());
      z = read(tape, scan);
    }
    return combine(tape, A, z);
  }

  CachedTensors cache() const override {
    const int64_t D = c_.head_dim;
    const Shape kv = {heads_.local_kv(), D}, state = {heads_.local_states(), D, D};
    CachedTensors tensors = {{"k", CachedTensor::Kind::token, kv},
                             {"v", CachedTensor::Kind::token, kv},
                             {"state", CachedTensor::Kind::state, state}};
    if (o_.loops()) tensors.push_back({"boundary", CachedTensor::Kind::state, state});
    if (o_.token_shift) tensors.push_back(token_before(c_.hidden_size));
    return tensors;
  }

 private:
  // [N D, d]: the mean W^Q of the state's query heads; [H D, d] for a full query: W^Q itself.
  static Tensor teacher_query(const ModelConfig& c, const WunengOptions& o, const std::string& attention,
                              const SourceRows& teacher) {
    const int64_t D = c.head_dim, N = o.state_heads, H = c.num_heads, P = H / N, block = D * c.hidden_size;
    const Tensor q = teacher(attention + "q_proj.weight", 0, H * D);
    if (!o.grouped_query) return q;
    const Tensor mean = Tensor::zeros({N * D, c.hidden_size});
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < block; ++i) mean.f32()[h / P * block + i] += q.f32()[h * block + i] / P;
    return mean;
  }

  // [N D, d]: W^K of each state's key/value head.
  static Tensor teacher_key(const ModelConfig& c, const WunengOptions& o, const std::string& attention,
                            const SourceRows& teacher) {
    const int64_t D = c.head_dim, N = o.state_heads, G = c.num_kv_heads;
    const Tensor k = teacher(attention + "k_proj.weight", 0, G * D),
                 out = Tensor::empty({N * D, c.hidden_size});
    for (int64_t s = 0; s < N; ++s)
      out.rows(s * D, (s + 1) * D).copy_from(k.rows(s * G / N * D, (s * G / N + 1) * D));
    return out;
  }

  // W^V [H, D, D]: 0 if the token's value is there too; else, from a teacher, the mean of the group's heads.
  Init value_start() const {
    if (o_.value_token) return added(constant(0));
    const int64_t D = c_.head_dim, P = c_.num_heads / o_.state_heads;
    return added(by_fan_in(D), values([=](int64_t i) { return i / D % D == i % D ? 1.0f / P : 0.0f; }));
  }

  // Per token, from x alone: q [T, H, D] before rotation, r [T, H, D], the rest [T, N, D].
  struct Inputs {
    Var q, r, key, kappa, log_w, rate, token_value;
  };
  struct Outputs {
    Var A, final;
  };

  // The states before documents' first tokens [documents, N, D, D]; undefined: zero.
  Var initial(Tape& tape, size_t documents) const {
    return initial_state_ ? ops::copies(tape, initial_state_, static_cast<int64_t>(documents)) : Var();
  }

  // The states [documents, N, D, D] before a chunk's first token and before the step's: the same unless the
  // step continues a chunk. Undefined: zero.
  struct StatesBefore {
    Var boundary, now;
  };
  StatesBefore cached_states(Tape& tape, const LayerCache& cache, const ChunkStep& step) const {
    cache.copy(tape.stream(), "state", "boundary", step.boundary_rows);
    return {cache.read(tape, "boundary", step.slots), cache.read(tape, "state", step.slots)};
  }

  // All chunk steps -> A and z: as CUDA graphs where documents are cut as before, and no rank waits for
  // another meanwhile.
  std::pair<Var, Var> chunk_steps(Tape& tape, const Inputs& in, const Var& keys, const Var& values,
                                  const DocumentLayout& documents, const LayerCache* cache) const {
    if (!documents.recordings || cache || !heads_.shared_states.empty())
      return chunk_steps_forward(tape, in, keys, values, documents, cache);
    std::vector<Var> inputs = {keys, values, in.q, in.r, in.key, in.kappa, in.log_w, in.rate};
    if (in.token_value.defined()) inputs.push_back(in.token_value);
    const std::vector<Var> out = documents.recordings->run(
        tape, this, inputs,
        {initial_state_, state_norm_, beta_, value_attention_, value_middle_, khat_, mid_, mid_state_, gate_,
         lambda_, query_state_},
        [&](Tape& on, const std::vector<Var>& given) -> std::vector<Var> {
          const Inputs of = {given[2],
                             given[3],
                             given[4],
                             given[5],
                             given[6],
                             given[7],
                             given.size() > 8 ? given[8] : Var()};
          const auto [A, z] = chunk_steps_forward(on, of, given[0], given[1], documents, nullptr);
          return {A, z};
        });
    return {out[0], out[1]};
  }

  std::pair<Var, Var> chunk_steps_forward(Tape& tape, const Inputs& in, const Var& keys, const Var& values,
                                          const DocumentLayout& documents, const LayerCache* cache) const {
    // The rows of all chunk steps, one step after the other.
    const auto packed = [&](const Var& y) {
      return y.defined() ? ops::pack_rows(tape, y, documents.chunk_step_order) : y;
    };
    const Inputs all = {packed(in.q),     packed(in.r),    packed(in.key),        packed(in.kappa),
                        packed(in.log_w), packed(in.rate), packed(in.token_value)};
    const auto pieces = [&](const Var& y) {
      return y.defined() ? ops::split_rows(tape, y, documents.chunk_step_rows)
                         : std::vector<Var>(documents.chunk_steps.size());
    };
    const std::vector<Var> q = pieces(all.q), r = pieces(all.r), key = pieces(all.key),
                           kappa = pieces(all.kappa), log_w = pieces(all.log_w), rates = pieces(all.rate),
                           token_value = pieces(all.token_value);
    std::vector<ops::Segments> segments;
    for (const ChunkStep& step : documents.chunk_steps) segments.push_back(step.segments);
    const ops::ScanGroupPtr scans = ops::scan_group(all.log_w, all.key, all.kappa, all.rate, all.r, segments);
    const Tensor attended = like(all.q);
    std::vector<Var> As;
    // The weights that every step reads have their gradients of all steps at once.
    const ops::JointGradientsPtr joint =
        documents.chunk_steps.size() > 1 ? ops::JointGradients::begin(tape) : nullptr;
    int64_t first = 0;
    StatesBefore before;
    for (size_t j = 0; j < documents.chunk_steps.size(); ++j) {
      const ChunkStep& step = documents.chunk_steps[j];
      const bool last = j + 1 == documents.chunk_steps.size();
      if (cache)
        before = cached_states(tape, *cache, step);
      else if (j == 0)
        before.boundary = before.now = initial(tape, step.segments.size());
      const int64_t end = first + documents.chunk_step_rows[j];
      const Outputs out =
          chunk_step_forward(tape, {q[j], r[j], key[j], kappa[j], log_w[j], rates[j], token_value[j]}, keys,
                             values, step, before, attended.rows(first, end), *scans, cache || !last, joint);
      first = end;
      As.push_back(out.A);
      if (cache)
        cache->write(tape.stream(), "state", step.slots, out.final.value());
      else if (!last)
        before.boundary = before.now =
            ops::pack_rows(tape, out.final, documents.chunk_steps[j + 1].continuing);
    }
    return {ops::pack_rows(tape, ops::join_rows(tape, As, attended), documents.documents_order),
            ops::pack_rows(tape, read(tape, scans), documents.documents_order)};
  }

  // One chunk, or a part of one, of every document that reaches it. attended: where A is written. The step's
  // recurrence is the next of `scans`.
  Outputs chunk_step_forward(Tape& tape, const Inputs& in, const Var& k, const Var& v, const ChunkStep& step,
                             const StatesBefore& before, const Tensor& attended, ops::ScanGroup& scans,
                             bool want_final, const ops::JointGradientsPtr& joint) const {
    const Var zb =
        before.boundary.defined() ? read_at_boundary(tape, before.boundary, in.r, step, joint) : Var();
    const Var q = o_.multi_token && zb.defined()
                      ? ops::rope_of_sum(tape, in.q, ops::head_linear(tape, zb, query_state_, {}, {}, joint),
                                         lambda_, step.rope_cos_sin)  // Eq. 11
                      : ops::rope(tape, in.q, step.rope_cos_sin);
    const Var A = ops::attention(tape, q, k, v, step.attention, heads_.kv_of_head, window_,
                                 step.attention_table, attended);  // Eq. 12
    const Var Mb = o_.value_middle ? middle(tape, A, zb, joint) : Var();
    const Var value = state_value(tape, in.token_value, A, Mb, ops::place_of_value(scans, A.dim(0)), joint);
    const ops::ScanPtr scan = ops::next_scan(
        tape, scans,
        {in.log_w, in.key, value, in.kappa, in.rate, in.r, before.now, step.segments, heads_.state_of_head},
        want_final);
    return {A, scan->final};
  }

  // v_s (Eq. 4, 9): the token's value, and what the group's attention and middle heads feed back. Where ranks
  // share a state head each adds its own query heads' part; the token's value is whole on each. to: see
  // place_of_value().
  Var state_value(Tape& tape, const Var& token, const Var& A, const Var& Mb, const Tensor& to = {},
                  const ops::JointGradientsPtr& joint = nullptr) const {
    const bool feeds = value_attention_ || value_middle_;
    if (!feeds) {
      // "middle" may be asked for where there are no middle heads: then nothing feeds the state.
      return token.defined() ? token
                             : Var(Tensor::zeros({A.dim(0), heads_.local_states(), c_.head_dim},
                                                 A.value().dtype(), tape.stream().device));
    }
    // With a state for every query head the token's value is what the sum begins with.
    const int64_t N = heads_.local_states();
    const bool begins = heads_.shared_states.empty() && ops::is_identity(heads_.state_of_head, N);
    Var parts = begins ? token : Var();
    if (value_attention_)
      parts =
          ops::head_linear(tape, A, value_attention_, parts, begins && !value_middle_ ? to : Tensor(), joint);
    if (value_middle_)
      parts = ops::head_linear(tape, Mb, value_middle_, parts, begins ? to : Tensor(), joint);
    if (begins) return parts;
    Var value = ops::sum_heads(tape, parts, heads_.state_of_head, N);
    value = sum_shared_heads(tape, tp_, value, heads_.shared_states, heads_.shared_slots);
    return token.defined() ? ops::add(tape, value, token, to) : value;
  }

  // z_h: S r, or S^T K^ (S r), normalised or scaled (Eq. 2).
  Var read(Tape& tape, const ops::ScanGroupPtr& scans) const {
    Var y = ops::read_state(tape, scans);
    if (khat_) y = ops::read_state_transposed(tape, scans, ops::head_linear(tape, y, khat_));
    return normalised(tape, y);
  }

  Var normalised(Tape& tape, const Var& y) const {
    return o_.rms ? ops::rms_norm(tape, y, state_norm_, o_.norm_eps)
                  : ops::scale_channels(tape, y, state_norm_, std::sqrt(static_cast<float>(c_.head_dim)));
  }

  Var read_at_boundary(Tape& tape, const Var& boundary, const Var& r, const ChunkStep& step,
                       const ops::JointGradientsPtr& joint) const {
    const ops::P norm = o_.rms ? state_norm_ : nullptr;  // in the last reading's pass
    Var y = ops::read_boundary(tape, boundary, r, step.segments, heads_.state_of_head, false,
                               khat_ ? nullptr : norm, o_.norm_eps);
    if (khat_)
      y = ops::read_boundary(tape, boundary, ops::head_linear(tape, y, khat_, {}, {}, joint), step.segments,
                             heads_.state_of_head, true, norm, o_.norm_eps);
    return norm ? y : normalised(tape, y);
  }

  // M_h (Eq. 6, 7, 8); z undefined: zero.
  Var middle(Tape& tape, const Var& A, const Var& z, const ops::JointGradientsPtr& joint = nullptr) const {
    const auto linear = [&](const Var& x, P weight) {
      return ops::head_linear(tape, x, weight, {}, {}, joint);
    };
    if (o_.cross_head == "concat")
      return ops::silu(tape, linear(z.defined() ? ops::add_scaled_heads(tape, A, z, beta_) : A, mid_));
    if (o_.cross_head == "additive") {
      const Var from_attention = linear(A, mid_);
      if (!z.defined()) return ops::silu(tape, from_attention);
      return ops::silu(tape, ops::add_scaled_heads(tape, from_attention, linear(z, mid_state_), beta_));
    }
    if (!z.defined())
      return middle(tape, A, Var(Tensor::zeros(A.shape(), A.value().dtype(), tape.stream().device)), joint);
    const Var g = ops::sigmoid(tape, linear(ops::concat(tape, A, z), gate_));
    return ops::silu(tape, linear(ops::mix(tape, g, A, ops::scale_heads(tape, z, beta_)), mid_));
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
    projections.push_back({flat(first), attention_.o});
    return projections;
  }

  ModelConfig c_;
  WunengOptions o_;
  Comm tp_;
  HeadShards heads_;
  AttentionProjections attention_;
  int64_t window_;
  LowRankProjection r_proj_, kappa_proj_, key_proj_;
  P r_head_ = nullptr, w0_ = nullptr, w1_ = nullptr, w2_ = nullptr, a0_ = nullptr, a1_ = nullptr,
    a2_ = nullptr, k_a_ = nullptr;
  P mu_r_ = nullptr, mu_k_ = nullptr, mu_kappa_ = nullptr, mu_w_ = nullptr, mu_a_ = nullptr;
  P initial_state_ = nullptr, state_norm_ = nullptr, alpha_ = nullptr, beta_ = nullptr, gamma_ = nullptr,
    lambda_ = nullptr;
  P value_attention_ = nullptr, value_middle_ = nullptr, khat_ = nullptr, mid_ = nullptr,
    mid_state_ = nullptr, gate_ = nullptr;
  P query_state_ = nullptr, o_state_ = nullptr, o_middle_ = nullptr, mix_state_ = nullptr,
    mix_middle_ = nullptr;
};

}  // namespace

MixerType wuneng_mixer() {
  MixerType type{.name = "wuneng",
                 .architecture = "WunengForCausalLM",
                 .help = "attention with RWKV-7 state heads and middle heads",
                 .options = wuneng_options(),
                 .presets = wuneng_presets(),
                 .starts_from = {"attention"},
                 .check = check_wuneng};
  type.make = [](const LayerContext& at) { return std::make_unique<WunengMixer>(at); };
  return type;
}

}  // namespace wuneng

#include "model/decoder.h"

#include <algorithm>

#include "kernels/matmul.h"

namespace wuneng {

Decoder::Decoder(const ModelConfig& config, const Placement& placement, DType dtype, bool recompute)
    : config_(config),
      placement_(placement),
      recompute_(recompute),
      store_(placement.tp.size(), placement.tp.rank(), dtype, placement.device) {
  const ModelConfig& c = config_;
  require(placement.activations == DType::f32 || placement.device.kind == DeviceKind::cuda,
          "activations: expected f32 on {}, found {}: the CPU computes in f32", to_string(placement.device),
          to_string(placement.activations));
  require(placement.stages <= c.num_layers, "pp = {}: more pipeline stages than the model's {} layers",
          placement.stages, c.num_layers);
  const int64_t d = c.hidden_size;
  const bool tied = c.tie_word_embeddings;
  const auto table = [&](const char* name) { return store_.sharded_evenly(name, {c.vocab_size, d}, 0); };
  if (placement.first()) embedding_ = table("model.embed_tokens.weight");
  const Range mine = stage_layers(c, placement.stages, placement.stage);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const std::string at = fmt::format("model.layers.{}.", i);
    Layer layer;  // its parameters behind those of the layers before it: see forward's marks
    layer.input_norm = store_.whole(at + "input_layernorm.weight", {d});
    layer.mixer = c.is_wuneng() ? make_wuneng_mixer(c, store_, placement.tp, at + "self_attn.")
                                : make_attention_mixer(c, store_, placement.tp, at + "self_attn.");
    layer.post_attention_norm = store_.whole(at + "post_attention_layernorm.weight", {d});
    layer.gate = store_.sharded_evenly(at + "mlp.gate_proj.weight", {c.intermediate_size, d}, 0);
    layer.up = store_.sharded_evenly(at + "mlp.up_proj.weight", {c.intermediate_size, d}, 0);
    layer.down = store_.sharded_evenly(at + "mlp.down_proj.weight", {d, c.intermediate_size}, 1);
    layers_.push_back(std::move(layer));
  }
  if (placement.last()) {
    norm_ = store_.whole("model.norm.weight", {d});
    if (!tied)
      head_ = table("lm_head.weight");
    else
      head_ = placement.first() ? embedding_ : table("model.embed_tokens.weight");
  }
  if (tied && placement.stages > 1)
    for (Parameter* p : store_.all())
      if (p->name == "model.embed_tokens.weight") {
        p->sum_over_embedding = true;
        if (placement.last()) p->owned = {p->held.begin, p->held.begin};  // the first stage owns it
      }
}

Var Decoder::forward(Tape& tape, const MicroBatch& batch, const Var& hidden, const Completed& completed) {
  const auto packing = std::make_shared<Packing>(
      Packing::make(batch.documents, config_.is_wuneng() && config_.wuneng.loops() ? config_.wuneng.chunk : 0,
                    placement_.device));
  packing->make_rope_cos_sin(tape.stream(), config_.head_dim, config_.rope_theta);
  Var h = placement_.first() ? reduce_from_tensor_parallel(
                                   tape, placement_.tp,
                                   ops::embedding(tape, batch.tokens, embedding_, placement_.activations))
                             : hidden;
  const auto mark = [&](const Parameter* first) {
    if (completed) tape.mark([=] { completed(first); });
  };
  for (const Layer& layer : layers_) {
    mark(layer.input_norm);
    if (recompute_ && tape.recording())
      h = wuneng::recompute(tape, {h}, [this, &layer, packing](Tape& inner, const std::vector<Var>& in) {
        return run(inner, layer, in[0], *packing);
      });
    else
      h = run(tape, layer, h, *packing);
  }
  if (!placement_.last()) return h;
  mark(norm_);
  return ops::rms_norm(tape, h, norm_, config_.rms_norm_eps);
}

Var Decoder::run(Tape& tape, const Layer& layer, const Var& h, const Packing& packing) const {
  const Projections mixer =
      layer.mixer->forward(tape, ops::rms_norm(tape, h, layer.input_norm, config_.rms_norm_eps), packing);
  const auto [mixed, normed] =
      add_projections(tape, placement_.tp, h, mixer, layer.post_attention_norm, config_.rms_norm_eps);
  const Var x = copy_to_tensor_parallel(tape, placement_.tp, normed);
  const Var inner = ops::swiglu(tape, ops::linear(tape, x, layer.gate), ops::linear(tape, x, layer.up));
  return add_projections(tape, placement_.tp, mixed, {{inner, layer.down}});
}

void Decoder::logits(const Tensor& hidden, Range columns, const Tensor& out) const {
  WUNENG_ASSERT(head_ != nullptr);
  const int64_t first = columns.begin - head_->held.begin;
  const Tensor head = head_->var.value().rows(first, first + columns.size());
  const auto product = [&](const Tensor& h, const Tensor& to) {
    kernels::matmul(stream(), {.a = h, .b = head, .c = to, .transpose_b = true});
  };
  // What only products of bf16 factors on a GPU write.
  const bool on_gpu = placement_.device.kind == DeviceKind::cuda;
  if (out.dtype() == DType::f32 || (on_gpu && (hidden.dtype() == DType::bf16 || head.dtype() == DType::bf16)))
    return product(hidden, out);
  constexpr int64_t kRows = 128;
  for (int64_t begin = 0; begin < hidden.dim(0); begin += kRows) {
    const int64_t end = std::min(begin + kRows, hidden.dim(0));
    const Tensor wide = Tensor::empty({end - begin, columns.size()}, DType::f32, placement_.device);
    product(hidden.rows(begin, end), wide);
    out.rows(begin, end).copy_from(wide);
  }
}

Tensor Decoder::logits(const Tensor& hidden) const {
  WUNENG_ASSERT(head_ != nullptr);
  const Tensor out = Tensor::empty({hidden.dim(0), head_->held.size()}, DType::f32, placement_.device);
  logits(hidden, head_->held, out);
  return out;
}

int64_t parameter_count(const ModelConfig& config) {
  const ModelConfig& c = config;
  const int64_t d = c.hidden_size, D = c.head_dim, H = c.num_heads, G = c.num_kv_heads;
  int64_t layer = 2 * d + (H + 2 * G) * D * (d + 1) + H * D * d + 3 * d * c.intermediate_size;
  if (c.is_wuneng()) {
    const WunengConfig& o = c.wuneng;
    const int64_t N = o.state_heads, square = H * D * D;
    const auto projection = [&](int64_t n) { return o.state_rank ? o.state_rank * (d + n * D) : n * D * d; };
    layer += projection(o.state_query == "grouped" ? N : H) + projection(N) +
             (o.state_key == "own" ? projection(N) : 0);
    if (o.state_query == "grouped") layer += square;
    layer += (o.decay_rank + o.rate_rank) * (d + N * D) + 3 * N * D + (o.token_shift ? 5 * d : 0) + H * D +
             H;  // w, a, k_a, mu, norm, alpha
    if (o.middles()) layer += 2 * H + square;
    if (o.value_from("attention")) layer += square;
    if (o.middle_feedback()) layer += square;
    if (o.state_read == "quadratic") layer += square;
    if (o.cross_head == "additive") layer += square;
    if (o.cross_head == "gated") layer += 2 * square;
    if (o.multi_token) layer += square + H;
    const auto join = [&](const std::string& how) {
      return how == "concat" ? d * H * D : how == "learned" ? square : 0;
    };
    layer += join(o.combine_state) + (o.middles() ? join(o.combine_middle) : 0);
  }
  return c.num_layers * layer + d + c.vocab_size * d * (c.tie_word_embeddings ? 1 : 2);
}

}  // namespace wuneng

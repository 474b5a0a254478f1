#include "model/decoder.h"

#include <algorithm>
#include <cmath>

#include "kernels/matmul.h"
#include "model/mixers/registry.h"

namespace wuneng {

Decoder::Decoder(const ModelConfig& config, const Placement& placement, DType dtype, bool recompute)
    : config_(config),
      placement_(placement),
      recompute_(recompute),
      store_(placement.tp.size(), placement.tp.rank(), dtype, placement.device, placement.allocate),
      layer_range_(stage_layers(config, placement.stages, placement.stage)) {
  const ModelConfig& c = config_;
  require(placement.activations == DType::f32 || placement.device.kind == DeviceKind::cuda,
          "activations: expected f32 on {}, found {}: the CPU computes in f32", to_string(placement.device),
          to_string(placement.activations));
  require(placement.stages <= c.num_layers, "pp = {}: more pipeline stages than the model's {} layers",
          placement.stages, c.num_layers);
  const int64_t d = c.hidden_size, F = c.intermediate_size;
  const bool tied = c.tie_word_embeddings;
  // Qwen2's own: normal(0, 0.02), less where a layer joins the residual stream.
  const Init matrix = copied(normal(0.02f)), ones = copied(constant(1)),
             residual = copied(normal(0.02f / std::sqrt(2.0f * c.num_layers)));
  const auto table = [&](const char* name) {
    return store_.sharded_evenly(name, {c.vocab_size, d}, matrix, 0);
  };
  if (placement.first()) embedding_ = table("model.embed_tokens.weight");
  for (int64_t i = layer_range_.begin; i < layer_range_.end; ++i) {
    const std::string at = fmt::format("model.layers.{}.", i);
    Layer layer;  // its parameters behind those of the layers before it: see forward's marks
    layer.input_norm = store_.whole(at + "input_layernorm.weight", {d}, ones);
    layer.mixer = mixer_type(c.mixer_of(i), at).make({c, i, at + "self_attn.", placement_.tp, store_});
    layer.post_attention_norm = store_.whole(at + "post_attention_layernorm.weight", {d}, ones);
    layer.gate = store_.sharded_evenly(at + "mlp.gate_proj.weight", {F, d}, matrix, 0);
    layer.up = store_.sharded_evenly(at + "mlp.up_proj.weight", {F, d}, matrix, 0);
    layer.down = store_.sharded_evenly(at + "mlp.down_proj.weight", {d, F}, residual, 1);
    for (const CarriedTensor& t : carried_by(c.mixer_of(i)))
      if (const auto before = carried_into(i); std::none_of(
              before.begin(), before.end(), [&](const CarriedTensor& b) { return b.name == t.name; }))
        layer.makes.push_back(t.name);
    layers_.push_back(std::move(layer));
  }
  if (placement.last()) {
    norm_ = store_.whole("model.norm.weight", {d}, ones);
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

void Decoder::initialize_random(uint64_t seed) {
  const Parameters all = parameters();
  for (size_t i = 0; i < all.size(); ++i) init(i).random(*all[i], seed);
}

std::vector<CarriedTensor> Decoder::carried_by(const std::string& mixer) const {
  const MixerType& type = mixer_type(mixer, "mixer");
  return type.carried ? type.carried(config_, placement_.tp.size(), placement_.tp.rank())
                      : std::vector<CarriedTensor>();
}

// What layers before `layer` leave for it or for later ones.
std::vector<CarriedTensor> Decoder::carried_into(int64_t layer) const {
  std::vector<CarriedTensor> out;
  for (const std::string& mixer : config_.mixers()) {
    bool before = false, after = false;
    for (int64_t i = 0; i < config_.num_layers; ++i)
      if (config_.mixer_of(i) == mixer) (i < layer ? before : after) = true;
    if (!before || !after) continue;
    for (CarriedTensor& tensor : carried_by(mixer)) out.push_back(std::move(tensor));
  }
  return out;
}

std::vector<CarriedTensor> Decoder::carried_in() const { return carried_into(layer_range_.begin); }
std::vector<CarriedTensor> Decoder::carried_out() const { return carried_into(layer_range_.end); }

StageState Decoder::forward(Tape& tape, const MicroBatch& batch, const StageState& in,
                            const Completed& completed) {
  // One layout for each size of chunks; a layer without chunks takes any.
  std::map<int64_t, std::shared_ptr<DocumentLayout>> layouts;
  for (const Layer& layer : layers_)
    if (layer.mixer->chunk()) layouts[layer.mixer->chunk()];
  if (layouts.empty()) layouts[0];
  for (auto& [chunk, documents] : layouts) {
    documents =
        std::make_shared<DocumentLayout>(DocumentLayout::make(batch.documents, chunk, placement_.device));
    documents->make_rope_cos_sin(tape.stream(), config_.head_dim, config_.rope_theta);
  }
  StageState state = in;
  if (placement_.first())
    state.hidden = reduce_from_tensor_parallel(
        tape, placement_.tp, ops::embedding(tape, batch.tokens, embedding_, placement_.activations));
  const auto mark = [&](const Parameter* first) {
    if (completed) tape.mark([=] { completed(first); });
  };
  for (const Layer& layer : layers_) {
    mark(layer.input_norm);
    const int64_t chunk = layer.mixer->chunk();
    const auto& documents = chunk ? layouts.at(chunk) : layouts.begin()->second;
    state = recompute_ && tape.recording() ? run_recomputed(tape, layer, state, documents)
                                           : run(tape, layer, state, *documents);
  }
  if (!placement_.last()) return state;
  mark(norm_);
  return {ops::rms_norm(tape, state.hidden, norm_, config_.rms_norm_eps), {}};
}

StageState Decoder::run(Tape& tape, const Layer& layer, const StageState& in,
                        const DocumentLayout& documents) const {
  StageState out = in;
  const Var x = ops::rms_norm(tape, in.hidden, layer.input_norm, config_.rms_norm_eps);
  const Projections mixer = layer.mixer->forward(tape, x, documents, out.carried);
  const auto [mixed, normed] =
      add_projections(tape, placement_.tp, in.hidden, mixer, layer.post_attention_norm, config_.rms_norm_eps);
  const Var y = copy_to_tensor_parallel(tape, placement_.tp, normed);
  const Var inner = ops::swiglu(tape, ops::linear(tape, y, layer.gate), ops::linear(tape, y, layer.up));
  out.hidden = add_projections(tape, placement_.tp, mixed, {{inner, layer.down}});
  return out;
}

StageState Decoder::run_recomputed(Tape& tape, const Layer& layer, const StageState& in,
                                   const std::shared_ptr<DocumentLayout>& documents) const {
  std::vector<std::string> names;
  std::vector<Var> inputs = {in.hidden};
  for (const auto& [name, var] : in.carried) {
    names.push_back(name);
    inputs.push_back(var);
  }
  const std::vector<Var> made =
      recompute(tape, inputs, [this, &layer, documents, names](Tape& inner, const std::vector<Var>& given) {
        StageState state{given[0], {}};
        for (size_t i = 0; i < names.size(); ++i) state.carried[names[i]] = given[i + 1];
        state = run(inner, layer, state, *documents);
        std::vector<Var> outputs = {state.hidden};
        for (const std::string& name : layer.makes) outputs.push_back(state.carried.at(name));
        return outputs;
      });
  StageState out{made[0], in.carried};
  for (size_t i = 0; i < layer.makes.size(); ++i) out.carried[layer.makes[i]] = made[i + 1];
  return out;
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

}  // namespace wuneng

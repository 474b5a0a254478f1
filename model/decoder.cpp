#include "model/decoder.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "kernels/matmul.h"
#include "model/mixers/registry.h"
#include "parallel/sequence_parallel.h"

namespace wuneng {

Decoder::Decoder(const ModelConfig& config, const Placement& placement, DType dtype, Recompute recompute,
                 int64_t alignment_width)
    : config_(config),
      placement_(placement),
      recompute_(recompute),
      store_(placement.tp.size(), placement.tp.rank(), dtype, placement.device, placement.allocate),
      layer_range_(placement.layers.value_or(stage_layers(config, placement.stages, placement.stage))) {
  const ModelConfig& c = config_;
  require(placement.activations == DType::f32 || placement.device.kind == DeviceKind::cuda,
          "activations: expected f32 on {}, found {}: the CPU computes in f32", to_string(placement.device),
          to_string(placement.activations));
  require(placement.layers || placement.stages <= c.num_layers,
          "pp = {}: more pipeline stages than the model's {} layers", placement.stages, c.num_layers);
  const int64_t d = c.hidden_size, F = c.intermediate_size;
  const bool tied = c.tie_word_embeddings;
  // normal(0, 0.02) as in Qwen2, less where a layer joins the residual stream.
  const Init matrix = copied(normal(0.02f)), ones = copied(constant(1)),
             residual = copied(normal(0.02f / std::sqrt(2.0f * c.num_layers)));
  const auto table = [&](const char* name) {
    return store_.sharded_evenly(name, {c.vocab_size, d}, matrix, 0);
  };
  if (placement.first()) embedding_ = table("model.embed_tokens.weight");
  for (int64_t i = layer_range_.begin; i < layer_range_.end; ++i) {
    Layer layer;  // its parameters behind those of the layers before it: see forward's marks
    layer.name = fmt::format("model.layers.{}", i);
    const std::string at = layer.name + ".";
    layer.input_norm = store_.whole(at + "input_layernorm.weight", {d}, ones, placement.sequence_parallel);
    if (alignment_width) {
      const auto projection = [&](const char* name, int64_t outputs, int64_t inputs) {
        return store_.whole(at + "alignment." + name, {outputs, inputs},
                            apart(normal(1 / std::sqrt(float(inputs)))));
      };
      layer.alignment_input = projection("input_proj.weight", d, alignment_width);
      layer.alignment_output = projection("output_proj.weight", alignment_width, d);
    }
    layer.mixer = mixer_type(c.mixer_of(i), at).make({c, i, at + "self_attn.", placement_.tp, store_});
    layer.post_attention_norm =
        store_.whole(at + "post_attention_layernorm.weight", {d}, ones, placement.sequence_parallel);
    std::tie(layer.gate, layer.up) =
        store_.joined(at + "mlp.gate_proj.weight", at + "mlp.up_proj.weight", {F, d}, matrix);
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
      head_ = placement.first()         ? embedding_
              : placement.ends_together ? placement.embedding
                                        : table("model.embed_tokens.weight");
  }
  if (tied && placement.stages > 1 && !placement.ends_together)
    for (Parameter* p : store_.all())
      if (p->name == "model.embed_tokens.weight") {
        p->sum_over_embedding = true;
        if (placement.last()) p->owned = {p->held.begin, p->held.begin};  // the first stage owns it
      }
  if (placement.record && runs_chunk_steps() && placement.device.kind == DeviceKind::cuda &&
      !placement.device.dry)
    repeated_ = std::make_unique<RepeatedLayouts>(placement.device);
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

bool Decoder::carries_between_stages() const {
  for (int stage = 1; stage < placement_.stages; ++stage)
    if (!carried_into(stage_layers(config_, placement_.stages, stage).begin).empty()) return true;
  return false;
}

std::vector<CarriedTensor> Decoder::carried_in() const { return carried_into(layer_range_.begin); }
std::vector<CarriedTensor> Decoder::carried_out() const { return carried_into(layer_range_.end); }

// One layout for each size of chunks; a layer without chunks takes any.
Decoder::Layouts Decoder::document_layouts(const MicroBatch& batch, const Continuation* continuation) const {
  Layouts layouts;
  for (const Layer& layer : layers_)
    if (layer.mixer->chunk()) layouts[layer.mixer->chunk()];
  if (layouts.empty()) layouts[0];
  for (auto& [chunk, documents] : layouts)
    documents = std::make_shared<DocumentLayout>(
        DocumentLayout::make(batch.documents, chunk, placement_.device, continuation));
  return layouts;
}

void Decoder::make_rope_cos_sin(const Stream& stream, const Layouts& layouts) const {
  const auto frequencies = rope_frequencies(config_.rope_theta, config_.rope_scaling, config_.head_dim);
  for (const auto& [chunk, documents] : layouts)
    documents->make_rope_cos_sin(stream, frequencies, rope_attention_factor(config_.rope_scaling));
}

Decoder::Layouts Decoder::layouts_of(const Tape& tape, const MicroBatch& batch) const {
  const auto make = [&] {
    Layouts layouts = document_layouts(batch);
    make_rope_cos_sin(tape.stream(), layouts);
    return layouts;
  };
  return repeated_ && tape.recording() ? repeated_->of(batch.documents, make) : make();
}

void Decoder::forget_recordings() {
  if (repeated_) repeated_->forget();
}

bool Decoder::runs_chunk_steps() const {
  return std::any_of(layers_.begin(), layers_.end(), [](const Layer& l) { return l.mixer->chunk() > 0; });
}

std::vector<std::string> Decoder::take_notes() const {
  return repeated_ ? repeated_->take_notes() : std::vector<std::string>();
}

const std::shared_ptr<DocumentLayout>& Decoder::layout_of(const Layouts& layouts, const Layer& layer) const {
  const int64_t chunk = layer.mixer->chunk();
  return chunk ? layouts.at(chunk) : layouts.begin()->second;
}

StageState Decoder::forward(Tape& tape, const MicroBatch& batch, const StageState& in,
                            const Completed& completed) {
  return forward(tape, batch, in, completed, nullptr);
}

StageState Decoder::forward(Tape& tape, const MicroBatch& batch, const StageState& in, MixerTaps& taps) {
  WUNENG_ASSERT(!tape.recording() && !placement_.sequence_parallel);
  for (const auto& [layer, tap] : taps)
    WUNENG_ASSERT(layer_range_.begin <= layer && layer < layer_range_.end);
  return forward(tape, batch, in, {}, &taps);
}

StageState Decoder::forward(Tape& tape, const MicroBatch& batch, const StageState& in,
                            const Completed& completed, MixerTaps* taps) {
  const Layouts layouts = layouts_of(tape, batch);
  StageState state = in;
  if (placement_.first()) state.hidden = embed(tape, batch.tokens);
  const auto mark = [&](const Parameter* first) {
    if (completed) tape.mark([=] { completed(first); });
  };
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    mark(layer.input_norm);
    const auto& documents = layout_of(layouts, layer);
    MixerTap* tap = nullptr;
    if (taps)
      if (const auto it = taps->find(layer_range_.begin + static_cast<int64_t>(i)); it != taps->end())
        tap = &it->second;
    if (recompute_ == Recompute::layer && tape.recording())
      state.hidden = recomputed(tape, layer, state.hidden, state.carried,
                                [this, &layer, documents](Tape& on, const Var& in, CarriedVars& carried) {
                                  const StageState out = run(on, layer, {in, carried}, documents);
                                  carried = out.carried;
                                  return std::vector<Var>{out.hidden};
                                })[0];
    else
      state = run(tape, layer, state, documents, tap);
  }
  if (!placement_.last()) return state;
  mark(norm_);
  const Var hidden = residual_stream(batch.rows()).read_alike(tape, state.hidden);
  const Var normed = ops::rms_norm(tape, hidden, norm_, config_.rms_norm_eps);
  tape.name(normed, "model.norm", "output");
  return {normed, {}};
}

int64_t Decoder::hidden_rows(int64_t rows) const {
  return placement_.sequence_parallel ? rows_of_share(rows, placement_.tp.size()) : rows;
}

void Decoder::name(const Tape& tape, const Var& hidden, const std::string& module, const char* what,
                   int64_t rows) const {
  const Range mine = placement_.sequence_parallel
                         ? share_of_rows(rows, placement_.tp.size(), placement_.tp.rank())
                         : Range{0, rows};
  tape.name(hidden, module, what, mine.begin, mine.size());
}

Var Decoder::embed(Tape& tape, const Tensor& tokens) const {
  const Var shares = ops::embedding(tape, tokens, embedding_, placement_.activations);
  const Var out = residual_stream(tokens.dim(0)).sum(tape, shares);
  name(tape, out, "model.embed_tokens", "output", tokens.dim(0));
  return out;
}

SequenceCache Decoder::make_cache(int64_t slots, int64_t capacity) const {
  std::vector<CachedTensors> layers;
  for (const Layer& layer : layers_) layers.push_back(layer.mixer->cache());
  return {layers, slots, capacity, placement_.activations, placement_.device};
}

Tensor Decoder::extend(const MicroBatch& batch, const std::vector<int64_t>& slots,
                       SequenceCache& cache) const {
  const Tensor hidden = extend(extension(batch, cache.continuation(batch.documents, slots)), cache);
  cache.advance(batch.documents, slots);
  return hidden;
}

Decoder::Extension Decoder::extension(const MicroBatch& batch, const Continuation& continuation) const {
  return {batch.tokens, document_layouts(batch, &continuation)};
}

Tensor Decoder::extend(const Extension& extension, SequenceCache& cache) const {
  WUNENG_ASSERT(placement_.first() && placement_.last());
  Tape tape(stream(), false);
  make_rope_cos_sin(tape.stream(), extension.layouts);
  StageState state{embed(tape, extension.tokens), {}};
  for (size_t i = 0; i < layers_.size(); ++i)
    state = run(tape, layers_[i], state, layout_of(extension.layouts, layers_[i]), nullptr, cache.layer(i));
  return ops::rms_norm(tape, state.hidden, norm_, config_.rms_norm_eps).value();
}

StageState Decoder::run(Tape& tape, const Layer& layer, const StageState& in,
                        const std::shared_ptr<DocumentLayout>& documents, MixerTap* tap,
                        const LayerCache* cache) const {
  StageState out{{}, in.carried};
  const Recompute again = tape.recording() ? recompute_ : Recompute::none;
  Halfway half;
  if (recomputes_mixer(again)) {
    const std::vector<Var> made = recomputed(
        tape, layer, in.hidden, out.carried,
        [this, &layer, documents](Tape& on, const Var& hidden, CarriedVars& carried) {
          const Halfway half = mixer_half(on, layer, hidden, *documents, carried, nullptr, nullptr);
          return std::vector<Var>{half.residual, half.normed};
        });
    half = {made[0], made[1]};
  } else {
    half = mixer_half(tape, layer, in.hidden, *documents, out.carried, tap, cache);
  }
  out.hidden =
      recomputes_mlp(again)
          ? recompute(tape, {half.residual, half.normed},
                      [this, &layer, rows = documents->rows](Tape& on, const std::vector<Var>& given) {
                        return std::vector<Var>{mlp_half(on, layer, {given[0], given[1]}, rows)};
                      })[0]
          : mlp_half(tape, layer, half, documents->rows);
  return out;
}

Decoder::Halfway Decoder::mixer_half(Tape& tape, const Layer& layer, const Var& hidden,
                                     const DocumentLayout& documents, CarriedVars& carried, MixerTap* tap,
                                     const LayerCache* cache) const {
  const ResidualStream residual = residual_stream(documents.rows);
  const float eps = config_.rms_norm_eps;
  const Var input = ops::rms_norm(tape, hidden, layer.input_norm, eps);
  name(tape, input, layer.name, "input of the mixer", documents.rows);
  const Projections mixer = layer.mixer->forward(tape, residual.read(tape, input), documents, carried, cache);
  if (tap) *tap = {input, residual.project(tape, mixer)};
  const auto [mixed, normed] =
      tap ? ops::add_rms_norm(tape, hidden, tap->output, layer.post_attention_norm, eps)
          : residual.add(tape, hidden, mixer, layer.post_attention_norm, eps);
  name(tape, mixed, layer.name, "residual after the mixer", documents.rows);
  name(tape, normed, layer.name, "input of the MLP", documents.rows);
  return {mixed, normed};
}

Var Decoder::mlp_half(Tape& tape, const Layer& layer, const Halfway& in, int64_t rows) const {
  const ResidualStream residual = residual_stream(rows);
  const Var x = residual.read(tape, in.normed);
  const Var inner = ops::swiglu(tape, ops::linear_pair(tape, x, layer.gate, layer.up));
  const Var out = residual.add(tape, in.residual, {{inner, layer.down}});
  name(tape, out, layer.name, "residual after the MLP", rows);
  return out;
}

std::vector<Var> Decoder::recomputed(Tape& tape, const Layer& layer, const Var& in, CarriedVars& carried,
                                     const LayerPart& part) {
  std::vector<std::string> names;
  std::vector<Var> inputs = {in};
  for (const auto& [name, var] : carried) {
    names.push_back(name);
    inputs.push_back(var);
  }
  std::vector<Var> outputs =
      recompute(tape, inputs, [&layer, part, names](Tape& on, const std::vector<Var>& given) {
        CarriedVars left;
        for (size_t i = 0; i < names.size(); ++i) left[names[i]] = given[i + 1];
        std::vector<Var> outputs = part(on, given[0], left);
        for (const std::string& name : layer.makes) outputs.push_back(left.at(name));
        return outputs;
      });
  const size_t count = outputs.size() - layer.makes.size();
  for (size_t i = 0; i < layer.makes.size(); ++i) carried[layer.makes[i]] = outputs[count + i];
  outputs.resize(count);
  return outputs;
}

std::vector<Var> Decoder::mixers(Tape& tape, const MicroBatch& batch,
                                 const std::function<Var(int64_t layer)>& input, CarriedVars& carried,
                                 const Completed& completed) const {
  WUNENG_ASSERT(!placement_.sequence_parallel);
  const Layouts layouts = layouts_of(tape, batch);
  std::vector<Var> out;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (completed) tape.mark([completed, first = layer.input_norm] { completed(first); });
    const LayerPart part = [this, &layer, documents = layout_of(layouts, layer)](Tape& on, const Var& in,
                                                                                 CarriedVars& carried) {
      return std::vector<Var>{mix(on, layer, in, *documents, carried)};
    };
    const Var in = input(layer_range_.begin + static_cast<int64_t>(i));
    const bool again = tape.recording() && (recomputes_mixer(recompute_) || recompute_ == Recompute::layer);
    out.push_back((again ? recomputed(tape, layer, in, carried, part) : part(tape, in, carried))[0]);
  }
  if (placement_.last() && completed) tape.mark([completed, first = norm_] { completed(first); });
  return out;
}

Var Decoder::mix(Tape& tape, const Layer& layer, const Var& input, const DocumentLayout& documents,
                 CarriedVars& carried) const {
  const ResidualStream residual = residual_stream(documents.rows);
  const Var x =
      residual.read(tape, layer.alignment_input ? ops::linear(tape, input, layer.alignment_input) : input);
  const Var out = residual.project(tape, layer.mixer->forward(tape, x, documents, carried, nullptr));
  tape.name(out, layer.name, "output of the mixer");
  return layer.alignment_output ? ops::linear(tape, out, layer.alignment_output) : out;
}

void Decoder::logits(const Tensor& hidden, Range columns, const Tensor& out) const {
  WUNENG_ASSERT(head_ != nullptr);
  const int64_t first = columns.begin - head_->held.begin;
  const Tensor head = head_->var.value().rows(first, first + columns.size());
  const Tensor scale =
      head_->row_scale.defined() ? head_->row_scale.rows(first, first + columns.size()) : Tensor();
  const auto product = [&](const Tensor& h, const Tensor& to) {
    kernels::matmul(stream(),
                    {.a = h, .b = head, .c = to, .transpose_b = true, .b_scale = scale, .by_row = true});
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

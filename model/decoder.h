// Decoder: a model, or the pipeline stage of one that this rank holds: embedding, layers of a mixer and an
// MLP each (docs/model.md, "One layer"), final norm and output matrix.
#pragma once
#include <memory>
#include <optional>

#include "model/config.h"
#include "model/mixer.h"
#include "model/recompute.h"
#include "model/repeated_layouts.h"
#include "parallel/stage.h"

namespace wuneng {

// Where in a model this rank stands.
struct Placement {
  Comm tp;  // the ranks that share this stage's layers
  int stage = 0, stages = 1;
  Device device = {};              // where its parameters and activations are
  DType activations = DType::f32;  // bf16 on a GPU alone
  bool record = false;   // on a GPU, in training: chunk steps as CUDA graphs (model/repeated_layouts.h)
  bool allocate = true;  // false: the parameters' names and shapes alone, without values
  std::optional<Range> layers = {};  // of this stage, maybe none; not given: stage_layers()
  // Of a model of several stages: whether the first and the last are on one rank, and there, for the last,
  // the first one's table, which a tied output matrix shares.
  bool ends_together = false;
  const Parameter* embedding = nullptr;
  bool sequence_parallel = false;  // hidden states are shares of rows: model/residual_stream.h
  bool first() const { return stage == 0; }
  bool last() const { return stage == stages - 1; }
};

// What goes into a layer's mixer and what comes out of it, summed over the tensor-parallel ranks: [T, d]
// each.
struct MixerTap {
  Var input, output;
};
using MixerTaps = std::map<int64_t, MixerTap>;  // by layer

class Decoder : public Stage {
 public:
  // All parameters are zero; see initialize_random and hugging_face.h. alignment_width: of what mixers()
  // takes and gives where that is not the model's hidden size; then each layer has a projection to the hidden
  // size and one back, which are no part of the model (ModelConfig does not know them).
  Decoder(const ModelConfig& config, const Placement& placement, DType dtype,
          Recompute recompute = Recompute::none, int64_t alignment_width = 0);

  void initialize_random(uint64_t seed);  // a new model

  Parameters parameters() override { return store_.all(); }
  const Init& init(size_t i) const { return store_.init(i); }  // of parameters()[i]
  int64_t hidden_size() const override { return config_.hidden_size; }
  int64_t hidden_rows(int64_t rows) const override;
  std::vector<CarriedTensor> carried_in() const override;
  std::vector<CarriedTensor> carried_out() const override;
  StageState forward(Tape& tape, const MicroBatch& batch, const StageState& in,
                     const Completed& completed = {}) override;  // see Stage
  // The same without gradients; fills `taps`, whose keys are layers of this stage.
  StageState forward(Tape& tape, const MicroBatch& batch, const StageState& in, MixerTaps& taps);

  // New tokens of sequences that `cache` (make_cache) keeps, document i of the sequence in slots[i] ->
  // hidden states [T, d] for logits(). Without gradients, for a model of one stage.
  Tensor extend(const MicroBatch& batch, const std::vector<int64_t>& slots, SequenceCache& cache) const;
  // The same in two parts, without the cache's new lengths: what extend() makes on the host of where
  // sequences stand, and what it runs with that on the device.
  using Layouts = DocumentLayouts;
  struct Extension {
    Tensor tokens;  // [T] i32
    Layouts layouts;
  };
  Extension extension(const MicroBatch& batch, const Continuation& continuation) const;
  Tensor extend(const Extension& extension, SequenceCache& cache) const;
  // Of `slots` sequences with at most `capacity` tokens each.
  SequenceCache make_cache(int64_t slots, int64_t capacity) const;

  // Attention alignment: this stage's mixers, each on an input of its own, input(layer) [T, d], without a
  // gradient. Returns their outputs [T, d], summed over the tensor-parallel ranks. carried: what layers
  // before this stage have left, and what its own leave. completed: see Stage::forward.
  std::vector<Var> mixers(Tape& tape, const MicroBatch& batch, const std::function<Var(int64_t layer)>& input,
                          CarriedVars& carried, const Completed& completed = {}) const;

  void forget_recordings();       // RepeatedLayouts::forget
  bool runs_chunk_steps() const;  // has it layers that go chunk by chunk?
  // Lines for the run's log since the last call: of what is recorded as CUDA graphs.
  std::vector<std::string> take_notes() const;

  const ModelConfig& config() const { return config_; }
  Range layers() const { return layer_range_; }
  // Does any stage of this pipeline get something from the stages before it besides the hidden state?
  bool carries_between_stages() const;
  const Placement& placement() const { return placement_; }
  Stream stream() const { return compute_stream(placement_.device); }
  const Parameter* embedding() const { return embedding_; }  // [local vocabulary, d]; first stage only
  // The output matrix [local vocabulary, d] that the loss multiplies with; on the last stage only.
  const Parameter* head() const { return head_; }
  // Logits [T, columns.size()] of a final hidden state [T, d], without a tape: of these columns of the
  // vocabulary, which the head here must hold, into `out`, f32 or bf16 (rounded once).
  void logits(const Tensor& hidden, Range columns, const Tensor& out) const;
  Tensor logits(const Tensor& hidden) const;  // of all columns here, f32

 private:
  struct Layer {
    std::string name;  // "model.layers.3"
    const Parameter *input_norm, *post_attention_norm, *gate, *up, *down;
    const Parameter *alignment_input = nullptr, *alignment_output = nullptr;
    std::unique_ptr<Mixer> mixer;
    std::vector<std::string> makes;  // of the carried tensors, those that this layer leaves for later ones
  };
  std::vector<CarriedTensor> carried_into(int64_t layer) const;
  std::vector<CarriedTensor> carried_by(const std::string& mixer) const;
  Layouts document_layouts(const MicroBatch& batch, const Continuation* continuation = nullptr) const;
  // With cosines and sines, and in training where they are the same again with recordings.
  Layouts layouts_of(const Tape& tape, const MicroBatch& batch) const;
  void make_rope_cos_sin(const Stream& stream, const Layouts& layouts) const;
  ResidualStream residual_stream(int64_t rows) const {
    return {placement_.tp, placement_.sequence_parallel, rows};
  }
  Var embed(Tape& tape, const Tensor& tokens) const;
  const std::shared_ptr<DocumentLayout>& layout_of(const Layouts& layouts, const Layer& layer) const;
  StageState forward(Tape& tape, const MicroBatch& batch, const StageState& in, const Completed& completed,
                     MixerTaps* taps);
  StageState run(Tape& tape, const Layer& layer, const StageState& in,
                 const std::shared_ptr<DocumentLayout>& documents, MixerTap* tap = nullptr,
                 const LayerCache* cache = nullptr) const;
  // Shows an observer of the tape a hidden state [R, d] of T = `rows`.
  void name(const Tape& tape, const Var& hidden, const std::string& module, const char* what,
            int64_t rows) const;
  // The halves of a layer. Of [R, d]: the layer's input -> residual after the mixer, input of the MLP; these
  // two -> the layer's output.
  struct Halfway {
    Var residual, normed;
  };
  Halfway mixer_half(Tape& tape, const Layer& layer, const Var& hidden, const DocumentLayout& documents,
                     CarriedVars& carried, MixerTap* tap, const LayerCache* cache) const;
  Var mlp_half(Tape& tape, const Layer& layer, const Halfway& in, int64_t rows) const;
  Var mix(Tape& tape, const Layer& layer, const Var& input, const DocumentLayout& documents,
          CarriedVars& carried) const;
  // A part of a layer, which may add to what layers leave for later ones.
  using LayerPart = std::function<std::vector<Var>(Tape&, const Var& in, CarriedVars& carried)>;
  // The same results, with the part run again in the backward pass.
  static std::vector<Var> recomputed(Tape& tape, const Layer& layer, const Var& in, CarriedVars& carried,
                                     const LayerPart& part);

  ModelConfig config_;
  Placement placement_;
  Recompute recompute_;
  ParameterStore store_;
  Range layer_range_;
  const Parameter *embedding_ = nullptr, *norm_ = nullptr, *head_ = nullptr;
  std::vector<Layer> layers_;
  std::unique_ptr<RepeatedLayouts> repeated_;  // null: nothing is recorded
};

// The layers of pipeline stage `stage`: as equal in number as can be.
inline Range stage_layers(const ModelConfig& config, int stages, int stage) {
  return shard_range(config.num_layers, stages, stage);
}
inline std::vector<Range> stages_of(const ModelConfig& config, int stages) {
  std::vector<Range> out;
  for (int stage = 0; stage < stages; ++stage) out.push_back(stage_layers(config, stages, stage));
  return out;
}

}  // namespace wuneng

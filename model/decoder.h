// Decoder: a model, or the pipeline stage of one that this rank holds: embedding, layers of a mixer and an
// MLP each (docs/model.md, "One layer"), final norm and output matrix.
#pragma once
#include <memory>

#include "model/config.h"
#include "model/mixer.h"
#include "parallel/stage.h"

namespace wuneng {

// Where in a model this rank stands.
struct Placement {
  Comm tp;  // the ranks that share this stage's layers
  int stage = 0, stages = 1;
  Device device = {};              // where its parameters and activations are
  DType activations = DType::f32;  // bf16 on a GPU alone
  bool allocate = true;            // false: the parameters' names and shapes alone, without values
  bool first() const { return stage == 0; }
  bool last() const { return stage == stages - 1; }
};

class Decoder : public Stage {
 public:
  // All parameters are zero; see initialize_random and hugging_face.h.
  Decoder(const ModelConfig& config, const Placement& placement, DType dtype, bool recompute = false);

  void initialize_random(uint64_t seed);  // a new model

  Parameters parameters() override { return store_.all(); }
  const Init& init(size_t i) const { return store_.init(i); }  // of parameters()[i]
  int64_t hidden_size() const override { return config_.hidden_size; }
  std::vector<CarriedTensor> carried_in() const override;
  std::vector<CarriedTensor> carried_out() const override;
  StageState forward(Tape& tape, const MicroBatch& batch, const StageState& in,
                     const Completed& completed = {}) override;  // see Stage

  const ModelConfig& config() const { return config_; }
  const Placement& placement() const { return placement_; }
  Stream stream() const { return compute_stream(placement_.device); }
  // The output matrix [local vocabulary, d] that the loss multiplies with; on the last stage only.
  const Parameter* head() const { return head_; }
  // Logits [T, columns.size()] of a final hidden state [T, d], without a tape: of these columns of the
  // vocabulary, which the head here must hold, into `out`, f32 or bf16 (rounded once).
  void logits(const Tensor& hidden, Range columns, const Tensor& out) const;
  Tensor logits(const Tensor& hidden) const;  // of all columns here, f32

 private:
  struct Layer {
    const Parameter *input_norm, *post_attention_norm, *gate, *up, *down;
    std::unique_ptr<Mixer> mixer;
    std::vector<std::string> makes;  // of the carried tensors, those that this layer leaves for later ones
  };
  std::vector<CarriedTensor> carried_into(int64_t layer) const;
  std::vector<CarriedTensor> carried_by(const std::string& mixer) const;
  StageState run(Tape& tape, const Layer& layer, const StageState& in, const DocumentLayout& documents) const;
  StageState run_recomputed(Tape& tape, const Layer& layer, const StageState& in,
                            const std::shared_ptr<DocumentLayout>& documents) const;

  ModelConfig config_;
  Placement placement_;
  bool recompute_;
  ParameterStore store_;
  Range layer_range_;
  const Parameter *embedding_ = nullptr, *norm_ = nullptr, *head_ = nullptr;
  std::vector<Layer> layers_;
};

// The layers of pipeline stage `stage`: as equal in number as can be.
inline Range stage_layers(const ModelConfig& config, int stages, int stage) {
  return shard_range(config.num_layers, stages, stage);
}

}  // namespace wuneng

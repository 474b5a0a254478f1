// TrainingState: what a checkpoint holds of a run and what a step changes: model, optimizer, and how many
// steps are done. In a checkpoint: model/NAME, and optimizer/NAME/{master,m,v}, each a logical tensor that
// any layout can load.
#pragma once
#include <optional>

#include "launch/train/checkpoint_meta.h"
#include "launch/train/run_directory.h"
#include "model/model_chunks.h"
#include "parallel/gradients.h"
#include "parallel/optimizer.h"
#include "parallel/weight_gather.h"
#include "runtime/checkpoint/writer.h"

namespace wuneng {

// Where the student is on a rank of tp; its stage is ModelChunks' own.
Placement student_placement(const TrainRecipe& recipe, const Comm& tp, Device device);
// The weights of a new run: at random by the recipe's seed, or from student.init_from.
void initialize_student(const TrainRecipe& recipe, ModelChunks& model);

class TrainingState {
 public:
  // Collective over the student's ranks. From the checkpoint of `start`, a new run from the recipe's seed or
  // student.init_from; throws where a checkpoint is of another model or other data.
  TrainingState(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                const RunDirectory& directory, const RunStart& start, Device device);

  // Collective over the student's ranks: begins to write checkpoints/step_N (runtime/checkpoint/writer.h).
  void save();
  // Collective, once a step: continues a save in the background and throws where it has failed.
  void poll_saving() { writer_.poll(); }
  void finish_saving() { writer_.finish(); }  // collective: waits until the last save is durable
  // Before model or optimizer change after a save.
  void before_update() { writer_.wait_until_captured(); }
  // Optimizer::step; then all ranks have the weights that others have updated.
  void update(double lr, const Tensor& gradient_scale);
  bool shares_optimizer() const { return weights_.has_value(); }  // each replica has a share of its state
  int64_t most_optimizer_bytes() const;  // collective: of the rank that holds most state of the optimizer

  int64_t step = 0;          // training steps done
  std::string resumed_from;  // the checkpoint's directory; empty for a new run
  ModelChunks model;
  GradientGroups groups;
  std::optional<GradientSums> gradients;
  std::optional<Optimizer> optimizer;

 private:
  void load(CheckpointReader& reader);
  std::vector<CheckpointPiece> pieces();

  const TrainRecipe& recipe_;
  const Mesh& mesh_;
  const TrainingData& data_;
  std::optional<WeightGather> weights_;  // with ZeRO-1 alone
  CheckpointWriter writer_;
};

}  // namespace wuneng

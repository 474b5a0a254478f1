// TrainingState: what a checkpoint holds of a run and what a step changes: model, optimizer, and how many
// steps are done. In a checkpoint: model/NAME, and optimizer/NAME/{master,m,v}, each a logical tensor that
// any layout can load.
#pragma once
#include <optional>

#include "launch/train/checkpoint_meta.h"
#include "model/decoder.h"
#include "parallel/gradients.h"
#include "parallel/optimizer.h"

namespace wuneng {

class TrainingState {
 public:
  // Collective over the student's ranks. At step 0 from the recipe's seed or student.init_from, later from
  // the checkpoint; throws where that is of another model or other data.
  TrainingState(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data, int64_t step,
                Device device);

  // Collective over the student's ranks: writes checkpoints/step_N and removes what run.keep does not keep.
  void save();

  int64_t step = 0;          // training steps done
  std::string resumed_from;  // the checkpoint's directory; empty for a new run
  Decoder model;
  GradientGroups groups;
  std::optional<GradientSums> gradients;
  std::optional<Optimizer> optimizer;

 private:
  void freeze();
  void initialize();
  void load(CheckpointReader& reader);
  std::vector<CheckpointPiece> pieces();

  const TrainRecipe& recipe_;
  const Mesh& mesh_;
  const TrainingData& data_;
};

// Where a run starts: the step of the checkpoint to resume from and its place in the data; zeros for a new
// run. Collective over the world: rank 0 looks, all agree.
DataCursor find_start(const TrainRecipe& recipe, const Comm& world);

}  // namespace wuneng

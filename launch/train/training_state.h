// A training run's state in checkpoints: model/NAME, and optimizer/NAME/{master,m,v}, each a logical tensor
// that any layout can load.
#pragma once
#include "model/decoder.h"
#include "parallel/mesh.h"
#include "parallel/optimizer.h"
#include "runtime/checkpoint.h"

namespace wuneng {

// This rank's parts: what it owns, on the first data-parallel replica.
std::vector<CheckpointPiece> checkpoint_pieces(Decoder& model, const Optimizer& optimizer, int dp_rank);
void load_model(Decoder& model, CheckpointReader& reader);
void load_optimizer(Optimizer& optimizer, CheckpointReader& reader);

// A model for one process, from a Hugging Face directory or a checkpoint.
std::unique_ptr<Decoder> open_model(const std::string& path, Device device = {});

}  // namespace wuneng

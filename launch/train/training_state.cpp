#include "launch/train/training_state.h"

#include "model/hugging_face.h"

namespace wuneng {
namespace {

void add_piece(std::vector<CheckpointPiece>& out, const std::string& name, const Parameter& p,
               const Tensor& shard) {
  out.push_back({name, p.global_shape, p.owned_begin(), p.owned_part(shard)});
}

// A parameter's shard, in the stored type or converted from it.
void read_shard(CheckpointReader& reader, const std::string& name, const Parameter& p, const Tensor& into) {
  require(reader.contains(name), "{}: tensor {} is missing", reader.directory(), name);
  require(reader.shape(name) == p.global_shape, "{}: tensor {}: expected shape {}, found {}",
          reader.directory(), name, to_string(p.global_shape), to_string(reader.shape(name)));
  if (reader.dtype(name) == into.dtype() && into.device() == Device{})
    return reader.read(name, p.held_begin(), into);
  const Tensor stored = Tensor::empty(into.shape(), reader.dtype(name));
  reader.read(name, p.held_begin(), stored);
  into.copy_from(stored);
}

}  // namespace

std::vector<CheckpointPiece> checkpoint_pieces(Decoder& model, const Optimizer& optimizer, int dp_rank) {
  std::vector<CheckpointPiece> out;
  if (dp_rank != 0) return out;
  for (const Parameter* p : model.parameters())
    if (p->owned.size() > 0) add_piece(out, "model/" + p->name, *p, p->var.value());
  for (const auto& [name, tensor, p] : optimizer.named_tensors())
    if (p->owned.size() > 0 && tensor.raw() != p->var.value().raw())
      add_piece(out, "optimizer/" + name, *p, tensor);
  return out;
}

void load_model(Decoder& model, CheckpointReader& reader) {
  for (const Parameter* p : model.parameters()) read_shard(reader, "model/" + p->name, *p, p->var.value());
}

void load_optimizer(Optimizer& optimizer, CheckpointReader& reader) {
  for (const auto& [name, tensor, p] : optimizer.named_tensors())
    if (tensor.raw() != p->var.value().raw())
      read_shard(reader, reader.contains("optimizer/" + name) ? "optimizer/" + name : "model/" + p->name, *p,
                 tensor);
  optimizer.set_steps_done(reader.meta().at("optimizer_steps"));
  optimizer.write_back();
}

std::unique_ptr<Decoder> open_model(const std::string& path, Device device) {
  if (!has_checkpoint(path)) {
    auto model =
        std::make_unique<Decoder>(ModelConfig::from_directory(path), Placement{.device = device}, DType::f32);
    load_hugging_face(*model, path, 0);
    return model;
  }
  CheckpointReader reader(path);
  auto model = std::make_unique<Decoder>(ModelConfig::from_json(reader.meta().at("config"), path),
                                         Placement{.device = device}, DType::f32);
  load_model(*model, reader);
  return model;
}

}  // namespace wuneng

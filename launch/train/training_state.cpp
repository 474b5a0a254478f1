#include "launch/train/training_state.h"

#include <fnmatch.h>

#include "launch/train/checkpoint_weights.h"
#include "parallel/replicas.h"

namespace wuneng {
namespace {

// A run with bf16 weights that goes on from f32 ones: those are its masters.
std::string source_of(const CheckpointReader& reader, const std::string& name, const Parameter& p) {
  const std::string model = "model/" + p.name;
  const bool is_master = name == p.name + "/master";
  return is_master && !reader.contains("optimizer/" + name) && reader.contains(model) &&
                 reader.dtype(model) == DType::f32
             ? model
             : "optimizer/" + name;
}

void load_optimizer(Optimizer& optimizer, CheckpointReader& reader) {
  for (const auto& [name, tensor, p] : optimizer.named_tensors())
    if (tensor.raw() != p->var.value().raw()) read_shard(reader, source_of(reader, name, *p), *p, tensor);
  optimizer.write_back();
}

CheckpointOptions checkpoint_options(const TrainRecipe& recipe, const RunDirectory& directory) {
  CheckpointOptions o;
  o.root = directory.checkpoints();
  o.keep = recipe.keep;
  o.run = directory.run();
  o.writer = directory.writer();
  o.background = recipe.async_checkpoints;
  o.check_may_commit = [&directory] { directory.check_may_write(); };
  return o;
}

}  // namespace

TrainingState::TrainingState(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                             const RunDirectory& directory, const RunStart& start, Device device)
    : step(start.step),
      model(recipe.student,
            Placement{mesh.tp, mesh.pp_rank, mesh.layout.pp, device,
                      recipe.activations_on(device, recipe.student_dtype)},
            recipe.student_dtype, recipe.recompute),
      groups{mesh.tp, mesh.pp, mesh.dp, mesh.embedding},
      recipe_(recipe),
      mesh_(mesh),
      data_(data),
      writer_(mesh.role_comm, checkpoint_options(recipe, directory)) {
  freeze();
  gradients.emplace(model.parameters(), groups);
  if (start.checkpoint.empty()) {
    initialize();
    optimizer.emplace(model.parameters(), recipe.adamw, model.stream());
  } else {
    CheckpointReader reader(start.checkpoint);
    load(reader);
  }
}

void TrainingState::freeze() {
  for (const std::string& pattern : recipe_.freeze) {
    bool any = false;
    for (Parameter* p : model.parameters())
      if (fnmatch(pattern.c_str(), p->name.c_str(), 0) == 0) {
        p->trainable = false;
        p->var = Var(p->var.value(), false);
        any = true;
      }
    require(mesh_.role_comm.all_reduce(any, Reduce::max, "freeze patterns") > 0,
            "student.freeze: no parameter matches '{}'", pattern);
  }
}

void TrainingState::initialize() {
  if (!recipe_.init_from.empty()) return load_weights(model, *open_weights(recipe_.init_from), recipe_.seed);
  model.initialize_random(recipe_.seed);
}

void TrainingState::load(CheckpointReader& reader) {
  const std::string& from = reader.directory();
  const CheckpointMeta meta = CheckpointMeta::read(reader);
  const nlohmann::json expected = recipe_.student.to_json(), found = meta.model_config(from).to_json();
  require(found == expected, "{}: the checkpoint's model is not the recipe's: expected {}, found {}", from,
          expected.dump(), found.dump());
  require(
      meta.data_fingerprint == data_.fingerprint(),
      "{}: the checkpoint's data is not the recipe's: expected fingerprint \"{}\", found \"{}\". The files, "
      "weights, packing, seq_len and seed of [data] must stay; for other data start a run from the "
      "weights (wuneng convert, then student.init_from)",
      from, data_.fingerprint(), meta.data_fingerprint);
  for (const Parameter* p : model.parameters()) read_shard(reader, "model/" + p->name, *p, p->var.value());
  optimizer.emplace(model.parameters(), recipe_.adamw, model.stream());
  load_optimizer(*optimizer, reader);
  optimizer->set_steps_done(meta.optimizer_steps);
  resumed_from = from;
}

// What this rank writes: its share of what it owns, which the data-parallel replicas hold too.
std::vector<CheckpointPiece> TrainingState::pieces() {
  std::vector<CheckpointPiece> out;
  const auto add = [&](const std::string& name, const Parameter& p, const Tensor& shard) {
    if (p.owned.size() > 0) out.push_back({name, p.global_shape, p.owned_begin(), p.owned_part(shard)});
  };
  for (const Parameter* p : model.parameters()) add("model/" + p->name, *p, p->var.value());
  for (const auto& [name, tensor, p] : optimizer->named_tensors())
    if (tensor.raw() != p->var.value().raw()) add("optimizer/" + name, *p, tensor);
  return share_of_pieces(out, mesh_.dp_rank, mesh_.layout.dp);
}

// Replicas write parts of one tensor, so they must be equal.
void TrainingState::save() {
  check_replicas(model.parameters(), groups);
  const CheckpointMeta meta = CheckpointMeta::of(recipe_, data_, step, optimizer->steps_done());
  writer_.begin(step, pieces(), meta.to_json());
}

}  // namespace wuneng

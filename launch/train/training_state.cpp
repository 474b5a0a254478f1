#include "launch/train/training_state.h"

#include <fnmatch.h>

#include "launch/train/checkpoint_weights.h"

namespace wuneng {
namespace {

std::string checkpoints_of(const TrainRecipe& r) { return r.out + "/checkpoints"; }
std::string resume_path(const TrainRecipe& r) { return r.resume == "auto" ? checkpoints_of(r) : r.resume; }

void load_optimizer(Optimizer& optimizer, CheckpointReader& reader) {
  for (const auto& [name, tensor, p] : optimizer.named_tensors())
    if (tensor.raw() != p->var.value().raw())
      read_shard(reader, reader.contains("optimizer/" + name) ? "optimizer/" + name : "model/" + p->name, *p,
                 tensor);
  optimizer.write_back();
}

}  // namespace

TrainingState::TrainingState(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                             int64_t steps_done, Device device)
    : step(steps_done),
      model(recipe.student,
            Placement{mesh.tp, mesh.pp_rank, mesh.layout.pp, device,
                      recipe.activations_on(device, recipe.student_dtype)},
            recipe.student_dtype, recipe.recompute),
      groups{mesh.tp, mesh.pp, mesh.dp, mesh.embedding},
      recipe_(recipe),
      mesh_(mesh),
      data_(data) {
  freeze();
  gradients.emplace(model.parameters(), groups);
  if (step == 0) {
    initialize();
    optimizer.emplace(model.parameters(), recipe.adamw, model.stream());
  } else {
    CheckpointReader reader(resume_path(recipe));
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
  require(reader.step() == step, "{}: step {}, rank 0 found step {}", from, reader.step(), step);
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

// This rank's pieces: what it owns, on the first data-parallel replica.
std::vector<CheckpointPiece> TrainingState::pieces() {
  std::vector<CheckpointPiece> out;
  if (mesh_.dp_rank != 0) return out;
  const auto add = [&](const std::string& name, const Parameter& p, const Tensor& shard) {
    if (p.owned.size() > 0) out.push_back({name, p.global_shape, p.owned_begin(), p.owned_part(shard)});
  };
  for (const Parameter* p : model.parameters()) add("model/" + p->name, *p, p->var.value());
  for (const auto& [name, tensor, p] : optimizer->named_tensors())
    if (tensor.raw() != p->var.value().raw()) add("optimizer/" + name, *p, tensor);
  return out;
}

void TrainingState::save() {
  const CheckpointMeta meta = CheckpointMeta::of(recipe_, data_, step, optimizer->steps_done());
  save_checkpoint(mesh_.role_comm, checkpoints_of(recipe_), step, pieces(), meta.to_json());
  if (mesh_.role_comm.rank() == 0) prune_checkpoints(checkpoints_of(recipe_), recipe_.keep);
}

DataCursor find_start(const TrainRecipe& r, const Comm& world) {
  DataCursor start;
  if (world.rank() == 0 && r.resume != "none") {
    const std::string from = resume_path(r);
    require(r.resume == "auto" || has_checkpoint(from), "run.resume: {} holds no checkpoint", from);
    if (has_checkpoint(from)) {
      const CheckpointReader reader(from);
      const CheckpointMeta meta = CheckpointMeta::read(reader);
      require(meta.next_sequence.has_value(),
              "{}: expected the number of the next sequence (meta.data.next_sequence), found none: an older "
              "version saved it; `wuneng convert` extracts its model",
              reader.directory());
      start = {reader.step(), *meta.next_sequence};
    }
  }
  const Tensor both = Tensor::from<int64_t>({start.step, start.sequence}, {2});
  world.broadcast(both, 0, "step and sequence at which the run starts");
  return {both.data<int64_t>()[0], both.data<int64_t>()[1]};
}

}  // namespace wuneng

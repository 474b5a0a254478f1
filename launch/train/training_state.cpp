#include "launch/train/training_state.h"

#include <algorithm>

#include "launch/train/checkpoint_weights.h"
#include "launch/train/trainable.h"
#include "parallel/replicas.h"
#include "runtime/trace.h"

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
  for (const auto& [name, tensor, part] : optimizer.named_tensors())
    read_part(reader, source_of(reader, name, *part.parameter), part, tensor);
  optimizer.write_back();
}

// "wuneng/chunk: expected 64, found 256; ...". Only of objects that are not equal.
std::string differing_keys(const nlohmann::json& expected, const nlohmann::json& found) {
  std::vector<std::string> out;
  const auto a = expected.flatten(), b = found.flatten();
  const auto text = [](const nlohmann::json& object, const std::string& key) {
    return object.contains(key) ? object[key].dump() : "none";
  };
  for (const auto& [key, value] : a.items())
    if (text(a, key) != text(b, key))
      out.push_back(fmt::format("{}: expected {}, found {}", key.substr(1), text(a, key), text(b, key)));
  for (const auto& [key, value] : b.items())
    if (!a.contains(key))
      out.push_back(fmt::format("{}: expected none, found {}", key.substr(1), text(b, key)));
  return fmt::format("{}", fmt::join(out, "; "));
}

// The owned elements of a part; `values` are the part's.
void add_owned(const std::string& name, const ParameterPart& part, const Tensor& values,
               std::vector<CheckpointPiece>& out) {
  const Tensor flat = values.view({values.numel()});
  for (const Rectangle& r : rectangles(part.owned())) {
    const Tensor data =
        flat.rows(r.elements.begin - part.elements.begin, r.elements.end - part.elements.begin);
    out.push_back({name, part.parameter->global_shape, r.begin, data.view(r.size)});
  }
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

Placement student_placement(const TrainRecipe& recipe, const Comm& tp, Device device) {
  return {.tp = tp,
          .device = device,
          .activations = recipe.activations_on(device, recipe.student_dtype),
          .record = recipe.cuda_graphs && !recipe.sends_messages(),
          .sequence_parallel = recipe.sequence_parallel};
}

TrainingState::TrainingState(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                             const RunDirectory& directory, const RunStart& start, Device device)
    : step(start.step),
      model(recipe.student, recipe.virtual_stages(), mesh.pp_rank, student_placement(recipe, mesh.tp, device),
            recipe.student_dtype, recipe.recompute, recipe.alignment_width()),
      groups{mesh.tp, mesh.pp, mesh.dp, mesh.embedding},
      recipe_(recipe),
      mesh_(mesh),
      data_(data),
      writer_(mesh.role_comm, checkpoint_options(recipe, directory)) {
  choose_trainable(recipe, model.parameters());
  check_trainable(recipe, model.parameters(), mesh.role_comm);
  const bool shares = recipe.zero > 0 && mesh.layout.dp > 1;
  gradients.emplace(model.parameters(), groups, shares ? SumOverDp::share : SumOverDp::whole);
  if (shares) weights_.emplace(gradients->buckets(), groups.dp);
  if (start.checkpoint.empty()) {
    initialize_student(recipe, model);
    optimizer.emplace(gradients->updates(), recipe.adamw, model.stream());
  } else {
    CheckpointReader reader(start.checkpoint);
    load(reader);
  }
}

void initialize_student(const TrainRecipe& recipe, ModelChunks& model) {
  for (int chunk = 0; chunk < model.size(); ++chunk)
    if (recipe.init_from.empty())
      model[chunk].initialize_random(recipe.seed);
    else
      load_weights(model[chunk], *open_weights(recipe.init_from), recipe.seed, recipe.random_mixers);
}

void TrainingState::load(CheckpointReader& reader) {
  const std::string& from = reader.directory();
  const CheckpointMeta meta = CheckpointMeta::read(reader);
  const nlohmann::json expected = recipe_.student.to_json(), found = meta.model_config(from).to_json();
  require(found == expected, "{}: the checkpoint's model is not the recipe's: {}", from,
          differing_keys(expected, found));
  require(
      meta.data_fingerprint == data_.fingerprint(),
      "{}: the checkpoint's data is not the recipe's: expected fingerprint \"{}\", found \"{}\". The files, "
      "weights, packing, seq_len and seed of [data] must stay; for other data start a run from the "
      "weights (wuneng convert, then student.init_from)",
      from, data_.fingerprint(), meta.data_fingerprint);
  for (const Parameter* p : model.parameters()) read_part(reader, "model/" + p->name, p, p->var.value());
  optimizer.emplace(gradients->updates(), recipe_.adamw, model.stream());
  load_optimizer(*optimizer, reader);
  optimizer->set_steps_done(meta.optimizer_steps);
  resumed_from = from;
}

void TrainingState::update(double lr, const Tensor& gradient_scale) {
  {
    const trace::Span span(trace::Kind::compute, "optimizer");
    optimizer->step(lr, gradient_scale);
    if (trace::recording()) synchronize(model.device());
  }
  if (weights_) weights_->run();
}

int64_t TrainingState::most_optimizer_bytes() const {
  return static_cast<int64_t>(
      mesh_.role_comm.all_reduce(double(optimizer->bytes()), Reduce::max, "bytes of the optimizer's state"));
}

// What this rank writes: of what it owns and the data-parallel replicas hold too, its share; and the state of
// the optimizer that it alone holds.
std::vector<CheckpointPiece> TrainingState::pieces() {
  std::vector<CheckpointPiece> held, state;
  for (const Parameter* p : model.parameters()) add_owned("model/" + p->name, p, p->var.value(), held);
  for (const auto& [name, tensor, part] : optimizer->named_tensors())
    add_owned("optimizer/" + name, part, tensor, weights_ ? state : held);
  std::vector<CheckpointPiece> out = share_of_pieces(held, mesh_.dp_rank, mesh_.layout.dp);
  out.insert(out.end(), state.begin(), state.end());
  return out;
}

// Replicas write parts of one tensor, so they must be equal.
void TrainingState::save() {
  check_replicas(model.parameters(), groups);
  const CheckpointMeta meta = CheckpointMeta::of(recipe_, data_, step, optimizer->steps_done());
  writer_.begin(step, pieces(), meta.to_json());
}

}  // namespace wuneng

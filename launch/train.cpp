#include "launch/train.h"

#include <filesystem>

#include "runtime/checkpoint.h"
#include "runtime/file.h"

namespace wuneng {
namespace {

// Training steps that a checkpoint to resume from has behind it; 0 to start afresh. Rank 0 looks, all agree.
int64_t steps_done(const TrainRecipe& r, const Comm& world) {
  int64_t done = 0;
  if (world.rank() == 0 && r.resume != "none") {
    const std::string from = r.resume == "auto" ? r.out + "/checkpoints" : r.resume;
    require(r.resume == "auto" || has_checkpoint(from), "run.resume: {} holds no checkpoint", from);
    if (has_checkpoint(from)) done = CheckpointReader(from).step();
  }
  return static_cast<int64_t>(world.all_reduce(static_cast<double>(done), Reduce::max, "steps done"));
}

}  // namespace

StreamOptions stream_options(const TrainRecipe& r, const TrainingData& data, int64_t done) {
  StreamOptions o;
  o.shape = {r.layout.dp,
             r.layout.tp,
             r.teacher_layout->dp,
             r.teacher_layout->tp,
             r.student.vocab_size,
             r.teacher->vocab_size,
             static_cast<int>(r.accumulation)};
  o.credits = r.credits;
  o.dtype = r.stream_dtype;
  o.rows = r.rows();
  o.first_round = first_round(data.rounds(), done);
  o.end_round = static_cast<int64_t>(data.rounds().size());
  return o;
}

void train(const TrainRecipe& recipe) {
  Runtime::set_hang_timeout(recipe.hang_timeout);
  const Mesh mesh = Mesh::make(Comm::world(), recipe.layout, recipe.teacher_layout);
  const TrainingData data(recipe);
  const auto fingerprints = mesh.world.all_gather_text(data.fingerprint(), "data fingerprint");
  for (size_t r = 0; r < fingerprints.size(); ++r)
    require(fingerprints[r] == fingerprints[0],
            "data: rank {} reads another corpus than rank 0 (fingerprints {} and {}): do all nodes see the "
            "same files?",
            r, fingerprints[r], fingerprints[0]);
  if (mesh.world.rank() == 0) {
    std::filesystem::create_directories(recipe.out);
    write_file_durably(recipe.out + "/recipe.toml", recipe.resolved);
  }
  const int64_t done = steps_done(recipe, mesh.world);
  const Comm stream = mesh.world.split(0, mesh.world.rank(), "stream");
  if (mesh.role == Role::student)
    train_student(recipe, mesh, data, stream, done);
  else
    serve_teacher(recipe, mesh, data, stream, done);
  mesh.world.barrier("end of the run");
}

}  // namespace wuneng

#include "launch/train/train.h"

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/checkpoint.h"
#include "runtime/file.h"

namespace wuneng {
namespace {

// Where a checkpoint to resume from stands; the beginning to start afresh. Rank 0 looks, all agree.
DataCursor find_cursor(const TrainRecipe& r, const Comm& world) {
  DataCursor cursor;
  if (world.rank() == 0 && r.resume != "none") {
    const std::string from = r.resume == "auto" ? r.out + "/checkpoints" : r.resume;
    require(r.resume == "auto" || has_checkpoint(from), "run.resume: {} holds no checkpoint", from);
    if (has_checkpoint(from)) {
      const CheckpointReader reader(from);
      cursor = {reader.step(), reader.meta().at("data").value("next_sequence", int64_t{-1})};
      require(cursor.sequence >= 0,
              "{}: expected the number of the next sequence (meta.data.next_sequence), found none: an older "
              "version saved it; its model can be had with `wuneng convert`",
              reader.directory());
    }
  }
  const Tensor both = Tensor::from<int64_t>({cursor.step, cursor.sequence}, {2});
  world.broadcast(both, 0, "where the run goes on");
  return {both.data<int64_t>()[0], both.data<int64_t>()[1]};
}

// What the data costs: the rank that waited longest, of each role.
void report_waiting(const Mesh& mesh, double seconds) {
  const bool student = mesh.role == Role::student;
  const double of_student = mesh.world.all_reduce(student ? seconds : 0, Reduce::max, "waited for data"),
               of_teacher = mesh.world.all_reduce(student ? 0 : seconds, Reduce::max, "waited for data");
  if (mesh.world.rank() == 0)
    std::printf("data: waited for at most %.2f s on a student rank%s\n", of_student,
                mesh.teacher ? fmt::format(", {:.2f} s on a teacher rank", of_teacher).c_str() : "");
}

}  // namespace

StreamOptions stream_options(const TrainRecipe& r, const TrainingData& data, int64_t done, Device device) {
  StreamOptions o;
  o.device = device;
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

void train(const TrainRecipe& recipe, TrainingData& data) {
  Runtime::set_hang_timeout(recipe.hang_timeout);
  const Mesh mesh = Mesh::make(Comm::world(), recipe.layout, recipe.teacher_layout);
  const Device device = parse_device(recipe.device, Runtime::local_rank());
  mesh.connect(device, recipe.overlap);
  const auto fingerprints = mesh.world.all_gather_text(data.fingerprint(), "data fingerprint");
  for (size_t r = 0; r < fingerprints.size(); ++r)
    require(fingerprints[r] == fingerprints[0],
            "data: rank {} reads other data than rank 0 (fingerprints {} and {}): do all nodes see the same "
            "files?",
            r, fingerprints[r], fingerprints[0]);
  if (mesh.world.rank() == 0) {
    std::filesystem::create_directories(recipe.out);
    write_file_durably(recipe.out + "/recipe.toml", recipe.resolved);
    for (const std::string& note : recipe.notes) std::printf("%s\n", note.c_str());
    for (const std::string& line : data.summary()) std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }
  const DataCursor cursor = find_cursor(recipe, mesh.world);
  data.go_on(cursor);
  const Comm stream = mesh.world.split(0, mesh.world.rank(), "stream");
  if (mesh.teacher)
    stream.connect_messages(device,
                            stream_ways(mesh, stream_options(recipe, data, cursor.step, device).shape));
  const auto run = mesh.role == Role::student ? train_student : serve_teacher;
  report_waiting(mesh, run(recipe, mesh, data, stream, cursor.step, device));
}

}  // namespace wuneng

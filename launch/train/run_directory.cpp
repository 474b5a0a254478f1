#include "launch/train/run_directory.h"

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "launch/train/checkpoint_meta.h"
#include "runtime/collective_error.h"
#include "runtime/file.h"
#include "runtime/hash.h"
#include "runtime/host.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// {"run": ID, "xxh3": checksum of ID}
std::string read_identity(const std::string& path) {
  const json j = json::parse(read_file(path), nullptr, false);
  const bool whole = j.is_object() && j.value("run", json()).is_string() &&
                     j.value("xxh3", json()) == hash_text(hash_of(j["run"].get<std::string>().data(),
                                                                  j["run"].get<std::string>().size()));
  require(
      whole,
      "{}: damaged: expected the identity of a run and its checksum. Without this file, any checkpoint in "
      "checkpoints/ is taken for one of this run",
      path);
  return j["run"];
}

}  // namespace

RunDirectory::RunDirectory(const TrainRecipe& recipe, const Comm& world) : recipe_(recipe), world_(world) {
  std::string problem;
  try {
    if (world_.rank() == 0) open();
  } catch (const std::exception& e) {
    problem = e.what();
  }
  const std::vector<std::string> said =
      world_.all_gather_text(json{{"problem", problem}, {"epoch", epoch_}, {"run", run_}}.dump(), "run.out");
  const json first = json::parse(said[0]);
  if (first["problem"] != "") fail_together(world_, "run.out: " + first["problem"].get<std::string>());
  epoch_ = first["epoch"];
  run_ = first["run"];
}

void RunDirectory::open() {
  fs::create_directories(recipe_.out);
  sync_path(parent_directory(recipe_.out));
  lease_.emplace(recipe_.out);
  epoch_ = lease_->epoch();
  if (recipe_.resume != "none" && fs::exists(recipe_.out + "/run.json"))
    run_ = read_identity(recipe_.out + "/run.json");
  write_file_durably(recipe_.out + "/recipe.toml", recipe_.resolved);
}

void RunDirectory::write_identity(const std::string& run) {
  const std::string hash = hash_text(hash_of(run.data(), static_cast<int64_t>(run.size())));
  write_file_durably(recipe_.out + "/run.json", json{{"run", run}, {"xxh3", hash}}.dump() + "\n");
}

RunStart RunDirectory::find_start() {
  const bool own = recipe_.resume == "auto";
  const std::string from = own ? checkpoints() : recipe_.resume;
  RunStart start;
  // Rank 0 looks, so that all ranks do the same.
  std::string looks;
  if (world_.rank() == 0 && recipe_.resume != "none") looks = has_checkpoint(from) ? "yes" : "no";
  looks = world_.all_gather_text(looks, "run.resume")[0];
  if (!own && looks == "no") fail_together(world_, fmt::format("run.resume: {} holds no checkpoint", from));
  if (looks == "yes") {
    start.checkpoint = newest_whole_checkpoint(from, world_, own ? run_ : "");
    const CheckpointReader reader(start.checkpoint);
    const CheckpointMeta meta = CheckpointMeta::read(reader);
    require(meta.next_sequence.has_value(),
            "{}: expected the number of the next sequence (meta.data.next_sequence), found none: an older "
            "version saved it; `wuneng convert` extracts its model",
            reader.directory());
    start.step = reader.step();
    start.sequence = *meta.next_sequence;
    if (run_.empty() && own) run_ = reader.run();
  }
  if (world_.rank() == 0) {
    if (run_.empty()) run_ = random_token();
    write_identity(run_);
    say_what_is_replaced(start);
  }
  run_ = world_.all_gather_text(run_, "identity of the run")[0];
  return start;
}

void RunDirectory::say_what_is_replaced(const RunStart& start) const {
  int64_t last = 0;
  for (const auto& entry : list_checkpoints(checkpoints()).entries)
    last = std::max(last, entry.manifest.step);
  if (last > start.step)
    std::printf(
        "%s holds checkpoints up to step %lld of an earlier run; this run goes on from step %lld, and "
        "its own checkpoints are kept before those\n",
        recipe_.out.c_str(), static_cast<long long>(last), static_cast<long long>(start.step));
}

void RunDirectory::release() {
  if (lease_) lease_->release();
}

}  // namespace wuneng

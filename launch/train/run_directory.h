// The directory of a run (run.out): recipe.toml, metrics.jsonl, checkpoints/, run.json and lease.N. One run
// at a time writes there (runtime/lease.h). run.json gives the run an identity that its checkpoints carry: a
// checkpoint of another run under checkpoints/ is not resumed by mistake.
#pragma once
#include <optional>

#include "launch/train/recipe.h"
#include "runtime/comm.h"
#include "runtime/lease.h"

namespace wuneng {

// Where a run starts: the checkpoint to resume from, its step and its place in the data; zeros for a new run.
struct RunStart {
  std::string checkpoint;  // a directory; empty: a new run
  int64_t step = 0, sequence = 0;
};

class RunDirectory {
 public:
  // Collective over the world. Rank 0 takes the lease and writes recipe.toml; it throws on all ranks where
  // another run holds it.
  RunDirectory(const TrainRecipe& recipe, const Comm& world);

  // Collective: what run.resume chooses, verified by all ranks.
  RunStart find_start();

  const std::string& run() const { return run_; }  // the identity
  std::string checkpoints() const { return recipe_.out + "/checkpoints"; }
  // Distinguishes this process's unfinished checkpoints from those of others that had the directory before.
  std::string writer() const { return fmt::format("lease-{}", epoch_); }
  void check_may_write() const { Lease::check(recipe_.out, epoch_); }
  void release();  // the run has ended

 private:
  void open();
  void write_identity(const std::string& run);
  void say_what_is_replaced(const RunStart& start) const;

  const TrainRecipe& recipe_;
  const Comm world_;
  std::optional<Lease> lease_;  // rank 0
  int64_t epoch_ = 0;
  std::string run_;
};

}  // namespace wuneng

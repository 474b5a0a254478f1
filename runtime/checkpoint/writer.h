// Saving checkpoints, in the background or at once. Both go the same way and write the same files:
//
//   1. begin       every rank notes its pieces; GPU tensors are copied to pinned host memory
//   2. capture     a thread of every rank copies host tensors (background only), which may change afterwards
//   3. write       that thread writes the rank's shard file and reads it back
//   4. commit      all ranks having written, a thread of rank 0 writes index.h5 and manifest.json, renames
//   the
//                  directory, names it latest and prunes
//
// A rank without pieces writes no file. If a step fails on any rank, the next poll() or finish() throws on
// all ranks; checkpoints that were complete before are not changed.
#pragma once
#include <atomic>
#include <functional>
#include <future>

#include "runtime/checkpoint/root.h"
#include "runtime/checkpoint/shard.h"
#include "runtime/comm.h"

namespace wuneng {

struct CheckpointOptions {
  std::string root;
  int64_t keep = 0;         // checkpoints that stay, the last saved; 0: all
  std::string run;          // Manifest::run
  std::string writer;       // names this process's saves under way; no other writer may use it
  bool background = false;  // poll() completes a save; else begin() does
  // Called by rank 0 before a checkpoint gets its name; throws where this process may not write any more.
  std::function<void()> check_may_commit = [] {};
};

class CheckpointWriter {
 public:
  // Collective. Rank 0 removes what saves that were cut short have left.
  CheckpointWriter(const Comm& comm, CheckpointOptions options);
  ~CheckpointWriter();

  // Collective. Finishes the save before it. `pieces` are this rank's; they must not change until
  // wait_until_captured() has returned.
  void begin(int64_t step, std::vector<CheckpointPiece> pieces, const nlohmann::json& meta);
  void wait_until_captured();
  // Collective: continues a save under way without waiting for the disk.
  void poll();
  // Collective: waits for the save under way. Afterwards it is complete and durable.
  void finish();

 private:
  enum class Phase { idle, writing, committing };

  void capture(std::vector<CheckpointPiece>& pieces);
  template <class F>
  auto in_background(F work);
  void advance(bool wait);
  void commit(const std::vector<std::string>& shards);
  std::string partial_name() const;

  const Comm comm_;
  const CheckpointOptions options_;
  int64_t saves_ = 0;  // rank 0: Manifest::save of the last one
  Phase phase_ = Phase::idle;
  int64_t step_ = 0;
  nlohmann::json meta_;
  std::promise<void> captured_;
  std::future<void> is_captured_;
  std::atomic<bool> failed_ = false;  // this rank's thread threw; its future has the error
  std::future<std::string> shard_;    // WrittenShard::to_text of this rank; empty without pieces
  std::future<void> commit_;          // rank 0
};

}  // namespace wuneng

#include "runtime/checkpoint/writer.h"

#include <chrono>
#include <filesystem>

#include "runtime/checkpoint/index.h"
#include "runtime/collective_error.h"
#include "runtime/staged.h"
#include "runtime/trace.h"
#include "runtime/watchdog.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

template <class T>
bool is_ready(const std::future<T>& f) {
  return f.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

std::string error_text(const std::exception& e) {
  return *e.what() ? e.what() : "an error without a message";
}

}  // namespace

CheckpointWriter::CheckpointWriter(const Comm& comm, CheckpointOptions options)
    : comm_(comm), options_(std::move(options)) {
  std::string problem;
  try {
    if (comm_.rank() == 0) {
      fs::create_directories(options_.root);
      sync_path(parent_directory(options_.root));
      clean_checkpoints(options_.root);
      for (const auto& entry : list_checkpoints(options_.root).entries)
        saves_ = std::max(saves_, entry.manifest.save);
    }
  } catch (const std::exception& e) {
    problem = error_text(e);
  }
  require_no_problem(comm_, problem, "checkpoint: preparing the directory");
}

// The threads' futures wait for them. An error that nobody asked for any more is not reported: this happens
// while another one propagates.
CheckpointWriter::~CheckpointWriter() = default;

std::string CheckpointWriter::partial_name() const {
  return fmt::format("{}.{}.partial", checkpoint_name(step_), options_.writer);
}

// Host tensors are copied by the thread, because the next step does not change them before its update.
void CheckpointWriter::capture(std::vector<CheckpointPiece>& pieces) {
  try {
    if (options_.background)
      for (CheckpointPiece& p : pieces) p.data = p.data.clone();
  } catch (...) {  // no memory: the error is that of the save
    captured_.set_value();
    throw;
  }
  captured_.set_value();
}

template <class F>
auto CheckpointWriter::in_background(F work) {
  failed_ = false;
  return std::async(std::launch::async, [this, work = std::move(work)]() mutable {
    const trace::Span span(trace::Kind::saving, "checkpoint in the background");
    try {
      return work();
    } catch (...) {
      failed_ = true;
      throw;
    }
  });
}

void CheckpointWriter::begin(int64_t step, std::vector<CheckpointPiece> pieces, const nlohmann::json& meta) {
  finish();
  step_ = step;
  meta_ = meta;
  for (CheckpointPiece& p : pieces) p.data = Staged(p.data, true, "checkpoint: copy to the host").host();
  captured_ = {};
  is_captured_ = captured_.get_future();
  phase_ = Phase::writing;
  shard_ = in_background([this, directory = options_.root + "/" + partial_name(),
                          file = fmt::format("shard_{:05}.h5", comm_.rank()),
                          pieces = std::move(pieces)]() mutable {
    capture(pieces);
    if (pieces.empty()) return std::string();
    fs::create_directories(directory);
    return write_shard(directory, file, pieces).to_text();
  });
  if (!options_.background) finish();
}

void CheckpointWriter::wait_until_captured() {
  if (is_captured_.valid()) is_captured_.get();
}

void CheckpointWriter::poll() {
  if (phase_ != Phase::idle) advance(false);
}

void CheckpointWriter::finish() {
  while (phase_ != Phase::idle) advance(true);
}

// One phase further where all ranks are done with this one.
void CheckpointWriter::advance(bool wait) {
  constexpr double kFailed = -1, kBusy = 0, kDone = 1;
  const auto progress = [&](auto& future) {
    if (!future.valid()) return kDone;
    if (wait) {
      const watchdog::Waiting waiting("checkpoint: writing to " + options_.root);
      future.wait();
    }
    return !is_ready(future) ? kBusy : failed_ ? kFailed : kDone;
  };
  const double mine = phase_ == Phase::writing ? progress(shard_) : progress(commit_);
  const double all = comm_.all_reduce(mine, Reduce::min, "checkpoint: progress");
  if (all == kBusy) return;
  if (all == kFailed) {
    phase_ = Phase::idle;
    std::string problem;
    try {
      if (mine == kFailed) shard_.valid() ? void(shard_.get()) : commit_.get();
    } catch (const std::exception& e) {
      problem = error_text(e);
    }
    require_no_problem(comm_, problem, "checkpoint");
  }
  if (phase_ == Phase::writing) {
    const auto shards = comm_.all_gather_text(shard_.get(), "checkpoint: shard files");
    phase_ = Phase::committing;
    if (comm_.rank() == 0) commit_ = in_background([this, shards] { commit(shards); });
  } else {
    phase_ = Phase::idle;
    if (commit_.valid()) commit_.get();
  }
}

void CheckpointWriter::commit(const std::vector<std::string>& shards) {
  Manifest manifest;
  manifest.run = options_.run;
  manifest.save = saves_ + 1;
  manifest.step = step_;
  manifest.meta = meta_;
  for (const std::string& text : shards) {
    if (text.empty()) continue;
    const WrittenShard shard = WrittenShard::from_text(text);
    for (WrittenShard::Part part : shard.parts) {
      StoredTensor& t =
          manifest.tensors.try_emplace(part.name, StoredTensor{part.dtype, part.shape, {}}).first->second;
      require(t.dtype == part.dtype && t.shape == part.shape,
              "tensor {}: ranks disagree on its type or shape: {} {} and {} {}", part.name,
              to_string(t.dtype), to_string(t.shape), to_string(part.dtype), to_string(part.shape));
      part.part.shard = static_cast<int>(manifest.shards.size());
      t.parts.push_back(std::move(part.part));
    }
    manifest.shards.push_back(shard.file);
  }
  require(!manifest.shards.empty(), "no rank has a tensor to save");
  for (const auto& [name, t] : manifest.tensors) check_tiling(name, t);
  const std::string partial = options_.root + "/" + partial_name();
  manifest.index = write_index(partial, manifest);
  write_file_durably(partial + "/manifest.json", manifest.dump());
  options_.check_may_commit();
  commit_checkpoint(options_.root, partial_name(), checkpoint_name(step_), manifest);
  saves_ = manifest.save;
  prune_checkpoints(options_.root, options_.keep);
}

}  // namespace wuneng

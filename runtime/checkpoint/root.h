// A root directory of checkpoints.
//
//   ROOT/step_00000120/       a checkpoint: shard_00000.h5 ..., index.h5, manifest.json
//   ROOT/latest               the name of the newest, and the checksum of its manifest
//   ROOT/step_N*.partial, *.replaced, *.removing   a save, a replacement or a removal under way, or cut short
//
// A checkpoint is complete when its directory has its name: it is written and synced as NAME.partial, then
// renamed. The order of checkpoints is that of their saves (Manifest::save), not of their steps: a run may
// go back.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "runtime/checkpoint/manifest.h"

namespace wuneng {

std::string checkpoint_name(int64_t step);  // "step_00000120"

// Reads and checks manifest.json of a checkpoint's directory; its step must be that of the directory's name.
Manifest read_manifest(const std::string& directory);

// Does `path` hold a checkpoint, complete or damaged: is it the directory of one, or a root with one?
bool has_checkpoint(const std::string& path);

// What a root holds.
struct CheckpointList {
  struct Entry {
    std::string name;
    Manifest manifest;
  };
  std::vector<Entry> entries;         // the one that `latest` names first, then by save, newest first
  std::vector<std::string> problems;  // one message for each that cannot be used, and for `latest`
};
CheckpointList list_checkpoints(const std::string& root);

// Before a run saves into `root`: finishes a replacement and a removal that were cut short, and removes
// partial checkpoints. Only for the one process that may write there.
void clean_checkpoints(const std::string& root);

// Gives the complete directory ROOT/PARTIAL its name, replacing a checkpoint of that name, and names it
// latest.
void commit_checkpoint(const std::string& root, const std::string& partial, const std::string& name,
                       const Manifest& manifest);

// Removes all but the `keep` last saved (0: keeps all).
void prune_checkpoints(const std::string& root, int64_t keep);

}  // namespace wuneng

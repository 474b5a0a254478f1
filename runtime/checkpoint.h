// Checkpoints: a directory of HDF5 files that any layout can load and h5py can read.
//
//   ROOT/step_00000120/shard_00000.h5 ...   one file per writing rank, its parts of logical tensors
//   ROOT/step_00000120/index.h5             virtual datasets that show every tensor whole under its name
//   ROOT/step_00000120/manifest.json        step, meta, and per shard its size, xxh3 and the parts it holds
//   ROOT/latest                             the directory's name
//
// A save writes into step_N.partial, syncs, renames it, and only then names it latest: a crash at any moment
// leaves the checkpoint before whole. A shard's checksum is verified before the file is handed to HDF5.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/comm.h"

namespace wuneng {

// A hyper-rectangle of a logical tensor. The pieces of all ranks tile it.
struct CheckpointPiece {
  std::string name;
  Shape global_shape;
  Shape begin;
  Tensor data;
};

// Saves on all ranks of `comm` together; a rank without pieces writes no file. Throws on every rank where one
// fails, the checkpoints before untouched. Returns the directory.
std::string save_checkpoint(const Comm& comm, const std::string& root, int64_t step,
                            const std::vector<CheckpointPiece>& pieces, const nlohmann::json& meta);

// Removes all but the newest `keep` checkpoints (0: keeps all). For one rank to call.
void prune_checkpoints(const std::string& root, int64_t keep);

class CheckpointReader {
 public:
  // A checkpoint's directory, or a root: then its latest, or (with a warning on stderr) the newest one that
  // is whole.
  explicit CheckpointReader(const std::string& path);

  const std::string& directory() const { return directory_; }
  int64_t step() const { return step_; }
  const nlohmann::json& meta() const { return meta_; }
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return tensors_.count(name) > 0; }
  const Shape& shape(const std::string& name) const { return tensor(name).shape; }
  DType dtype(const std::string& name) const { return tensor(name).dtype; }
  // Fills `into` (of the stored type) with the hyper-rectangle that begins at `begin`.
  void read(const std::string& name, const Shape& begin, const Tensor& into);
  Tensor read(const std::string& name);  // whole

 private:
  struct Stored {
    Shape shape;
    DType dtype;
    std::vector<std::pair<int, std::pair<Shape, Shape>>> parts;  // shard, (begin, size)
  };
  struct Shard {
    std::string file;
    int64_t size;
    std::string checksum;
    bool verified = false;
  };
  const Stored& tensor(const std::string& name) const;
  void open(const std::string& directory);
  void verify(Shard& shard) const;

  std::string directory_;
  int64_t step_ = 0;
  nlohmann::json meta_;
  std::map<std::string, Stored> tensors_;
  std::vector<Shard> shards_;
};

// Does `path` hold a checkpoint (a directory of one, or a root with one)?
bool has_checkpoint(const std::string& path);

}  // namespace wuneng

// Checkpoints: a directory of HDF5 files that any layout can load and h5py can read.
//
//   ROOT/step_00000120/shard_00000.h5 ...   shard files: one per writing rank, with its parts of logical
//   tensors ROOT/step_00000120/index.h5             virtual datasets: every tensor whole, under its name
//   ROOT/step_00000120/manifest.json        step, meta, and per shard file its size, xxh3 and the parts it
//   holds ROOT/latest                             the name of the latest directory
//
// A save writes into step_N.partial, syncs it, renames it and then updates `latest`: a crash at any time
// leaves the previous checkpoint intact. The checksum of a shard file is verified before HDF5 opens it.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/comm.h"

namespace wuneng {

// A part of a logical tensor (a hyper-rectangle). The parts of all ranks tile the tensor.
struct CheckpointPiece {
  std::string name;
  Shape global_shape;
  Shape begin;
  Tensor data;
};

// Collective over `comm`; a rank without pieces writes no file. If one rank fails, all ranks throw and
// earlier checkpoints are not changed. Returns the directory.
std::string save_checkpoint(const Comm& comm, const std::string& root, int64_t step,
                            const std::vector<CheckpointPiece>& pieces, const nlohmann::json& meta);

// Removes all but the newest `keep` checkpoints (0: keeps all). Called by one rank only.
void prune_checkpoints(const std::string& root, int64_t keep);

class CheckpointReader {
 public:
  // A checkpoint's directory, or a root directory: then its latest checkpoint or, with a warning on stderr,
  // the newest one that is complete and undamaged.
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
  struct StoredTensor {
    Shape shape;
    DType dtype;
    std::vector<std::pair<int, std::pair<Shape, Shape>>> parts;  // shard file, (begin, size)
  };
  struct ShardFile {
    std::string file;
    int64_t size;
    std::string checksum;
    bool verified = false;
  };
  const StoredTensor& tensor(const std::string& name) const;
  void open(const std::string& directory);
  void verify(ShardFile& shard) const;

  std::string directory_;
  int64_t step_ = 0;
  nlohmann::json meta_;
  std::map<std::string, StoredTensor> tensors_;
  std::vector<ShardFile> shards_;
};

// Does `path` hold a checkpoint (a directory of one, or a root with one)?
bool has_checkpoint(const std::string& path);

}  // namespace wuneng

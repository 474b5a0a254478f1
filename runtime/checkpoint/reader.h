// Reading a checkpoint: any hyper-rectangle of any tensor, whatever layout saved it. Elements are read at the
// places that the manifest gives, and every block that is read is compared with its checksum first.
#pragma once
#include <memory>

#include "runtime/checkpoint/root.h"
#include "runtime/checkpoint/shard.h"
#include "runtime/comm.h"

namespace wuneng {

class CheckpointReader {
 public:
  // A checkpoint's directory, or a root: then the first of list_checkpoints. Checks the manifest, the index,
  // and sizes of files. Which checkpoint a root holds whole, newest_whole_checkpoint says.
  explicit CheckpointReader(const std::string& path);

  const std::string& directory() const { return directory_; }
  int64_t step() const { return manifest_.step; }
  const std::string& run() const { return manifest_.run; }
  const nlohmann::json& meta() const { return manifest_.meta; }
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return manifest_.tensors.count(name) > 0; }
  const Shape& shape(const std::string& name) const { return tensor(name).shape; }
  DType dtype(const std::string& name) const { return tensor(name).dtype; }
  // Fills `into` (of the stored type) with the hyper-rectangle that begins at `begin`.
  void read(const std::string& name, const Shape& begin, const Tensor& into);
  Tensor read(const std::string& name);  // whole

  // Verifies all bytes of the shard files; of `ranks` processes, rank r a share of them.
  void verify(int rank = 0, int ranks = 1);

 private:
  struct ShardFile {
    std::unique_ptr<FileDescriptor> file;  // open and its metadata verified
    std::vector<ByteRange> data;           // of all parts in it
  };
  const StoredTensor& tensor(const std::string& name) const;
  const FileDescriptor& shard(int index);
  void read_index_of_version_1();

  std::string directory_;
  Manifest manifest_;
  std::vector<ShardFile> shards_;
};

// The directory of the checkpoint at `path` to use: `path` itself, or where that is a root the first of
// list_checkpoints whose bytes are all as they were written. Collective: rank 0 of `comm` chooses, all ranks
// verify a share. What cannot be used is reported on stderr. Throws where there is none; `run`, where not
// empty, is the only run whose checkpoints are taken from a root.
std::string newest_whole_checkpoint(const std::string& path, const Comm& comm = {},
                                    const std::string& run = {});

}  // namespace wuneng

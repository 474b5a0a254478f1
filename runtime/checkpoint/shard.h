// Shard files: one HDF5 file per writing rank, with its parts of logical tensors, a dataset each.
#pragma once
#include <string>
#include <vector>

#include "runtime/checkpoint/manifest.h"
#include "runtime/file.h"

namespace wuneng {

// A part of a logical tensor. The parts of all ranks tile the tensor.
struct CheckpointPiece {
  std::string name;
  Shape global_shape;
  Shape begin;
  Tensor data;  // on the host when it is written
};

// The pieces that replica `replica` of `replicas` writes, where all hold the same ones: equal shares of the
// bytes, cut between rows.
std::vector<CheckpointPiece> share_of_pieces(const std::vector<CheckpointPiece>& pieces, int replica,
                                             int replicas);

// What write_shard wrote: the manifest's lines of it.
struct WrittenShard {
  StoredFile file;
  struct Part {
    std::string name;
    DType dtype;
    Shape shape;  // of the logical tensor
    StoredPart part;
  };
  std::vector<Part> parts;

  std::string to_text() const;
  static WrittenShard from_text(const std::string& text);
};

// The dataset of a shard file with part `part` of the tensor's parts in that file, in their order.
std::string dataset_name(const std::string& tensor, int64_t part);

// Writes DIRECTORY/NAME and syncs it. Checksums are those of the memory that was written; the file is read
// back and compared with them. Throws where an element is not finite.
WrittenShard write_shard(const std::string& directory, const std::string& name,
                         const std::vector<CheckpointPiece>& pieces);

// Throws unless the elements of a part in the file have the checksums of the manifest.
void verify_part(const FileDescriptor& file, const StoredPart& part, DType dtype, const std::string& name);

// XXH3 of the bytes of a file that are outside of `ranges`.
uint64_t hash_outside(const FileDescriptor& file, const std::vector<ByteRange>& ranges);

}  // namespace wuneng

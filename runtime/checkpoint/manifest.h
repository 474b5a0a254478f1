// The manifest of a checkpoint (manifest.json): what it is and every byte that belongs to it.
//
// The file is JSON with a field "xxh3": XXH3 of the file's text with that field's digits set to 0. It holds
// the checksums of all other files: of index.h5 as a whole; of a shard file's HDF5 metadata; and of the
// elements of every part of a tensor, one for each block of kBlockBytes, so that a reader hashes what it
// reads.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/tensor.h"

namespace wuneng {

constexpr int64_t kBlockBytes = 16 << 20;

// A part of a logical tensor (a hyper-rectangle) and its elements, row-major, in a shard file.
struct StoredPart {
  int shard;
  Shape begin, size;
  int64_t offset;                // in the shard file, bytes
  std::vector<uint64_t> hashes;  // of its blocks; empty in version 1
};

struct StoredTensor {
  DType dtype;
  Shape shape;
  std::vector<StoredPart> parts;  // they tile the shape
};

struct StoredFile {
  std::string name;
  int64_t size;   // bytes
  uint64_t hash;  // index.h5: of all bytes; a shard file: of the bytes in no part (version 1: of all)
};

struct Manifest {
  // 1: no checksum of the manifest and the index, one checksum a shard file (before 2026-11-26).
  static constexpr int64_t kVersion = 2;

  int64_t version = kVersion;
  std::string run;   // the run that saved it; empty in version 1
  int64_t save = 0;  // counts the saves into a root directory: the newest checkpoint has the highest
  int64_t step = 0;
  nlohmann::json meta;
  StoredFile index;
  std::vector<StoredFile> shards;
  std::map<std::string, StoredTensor> tensors;
  uint64_t hash = 0;  // the field "xxh3", after parse and dump

  std::string dump();
  // Throws where the text is damaged, not of a known version, or inconsistent: parts outside of their tensor
  // or file, overlapping or incomplete, file names that are paths.
  static Manifest parse(const std::string& text, const std::string& where);
};

// Throws unless the parts tile the tensor: every part inside, no two overlapping, all elements covered.
void check_tiling(const std::string& name, const StoredTensor& tensor);

// Bytes of a part. Throws where they overflow.
int64_t part_bytes(const StoredPart& part, DType dtype);

}  // namespace wuneng

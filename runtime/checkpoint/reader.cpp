#include "runtime/checkpoint/reader.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "runtime/collective_error.h"
#include "runtime/hash.h"
#include "runtime/hdf5.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

std::string directory_of(const std::string& path) {
  if (fs::exists(path + "/manifest.json")) return path;
  const CheckpointList list = list_checkpoints(path);
  require(!list.entries.empty(), "{}: expected a checkpoint, found none{}{}", path,
          list.problems.empty() ? "" : ": ", fmt::join(list.problems, "; "));
  return path + "/" + list.entries.front().name;
}

void check_file(const FileDescriptor& file, const StoredFile& stored, uint64_t found, const char* what) {
  require(found == stored.hash, "{}: damaged: expected xxh3 {} of {}, found {}", file.path(),
          hash_text(stored.hash), what, hash_text(found));
}

// A file of the checkpoint, of the size that the manifest gives.
FileDescriptor open_file(const std::string& directory, const StoredFile& stored) {
  FileDescriptor file(directory + "/" + stored.name, O_RDONLY);
  const int64_t size = file.size();
  require(size == stored.size, "{}: expected {} bytes, found {}", file.path(), stored.size, size);
  return file;
}

// Elements of a hyper-rectangle, row by row: from a buffer that holds a part's bytes from `skipped` on, to a
// tensor that begins at `begin`.
void copy_rows(const StoredPart& part, const std::vector<char>& bytes, int64_t skipped, const Shape& from,
               const Shape& size, const Shape& begin, const Tensor& into) {
  const size_t n = size.size();
  const int64_t element = size_of(into.dtype()), width = (n ? size[n - 1] : 1) * element,
                rows = element_count(size) * element / width;
  Shape at(n, 0);
  for (int64_t r = 0; r < rows; ++r) {
    int64_t source = 0, target = 0;
    for (size_t k = 0; k < n; ++k) {
      source = source * part.size[k] + from[k] - part.begin[k] + at[k];
      target = target * into.shape()[k] + from[k] - begin[k] + at[k];
    }
    std::memcpy(static_cast<char*>(into.raw()) + target * element, bytes.data() + source * element - skipped,
                width);
    for (int k = static_cast<int>(n) - 2; k >= 0 && ++at[k] == size[k]; --k) at[k] = 0;
  }
}

// The first and the last element (row-major) of a rectangle inside a part.
std::pair<int64_t, int64_t> extent(const StoredPart& part, const Shape& from, const Shape& size) {
  int64_t first = 0, last = 0;
  for (size_t k = 0; k < size.size(); ++k) {
    first = first * part.size[k] + from[k] - part.begin[k];
    last = last * part.size[k] + from[k] - part.begin[k] + size[k] - 1;
  }
  return {first, last};
}

}  // namespace

CheckpointReader::CheckpointReader(const std::string& path)
    : directory_(directory_of(path)), manifest_(read_manifest(directory_)), shards_(manifest_.shards.size()) {
  for (const StoredFile& file : manifest_.shards) open_file(directory_, file);
  for (const auto& [name, t] : manifest_.tensors)
    for (const StoredPart& part : t.parts)
      shards_[part.shard].data.push_back({part.offset, part_bytes(part, t.dtype)});
  if (manifest_.version == 1) {
    read_index_of_version_1();
    return;
  }
  const FileDescriptor index = open_file(directory_, manifest_.index);
  check_file(index, manifest_.index, hash_outside(index, {}), "the file");
}

// Version 1 gives one checksum a file, and places only in the HDF5 metadata.
void CheckpointReader::read_index_of_version_1() {
  for (const StoredFile& stored : manifest_.shards) {
    const FileDescriptor file = open_file(directory_, stored);
    check_file(file, stored, hash_outside(file, {}), "the file");
  }
  for (auto& [name, t] : manifest_.tensors)
    for (StoredPart& part : t.parts)
      part.offset = h5::offset_of_dataset(directory_ + "/" + manifest_.shards[part.shard].name, name, t.dtype,
                                          part.size);
}

const FileDescriptor& CheckpointReader::shard(int index) {
  ShardFile& shard = shards_[index];
  if (!shard.file) {
    const StoredFile& stored = manifest_.shards[index];
    auto file = std::make_unique<FileDescriptor>(open_file(directory_, stored));
    if (manifest_.version > 1)
      check_file(*file, stored, hash_outside(*file, shard.data), "its HDF5 metadata");
    shard.file = std::move(file);
  }
  return *shard.file;
}

void CheckpointReader::verify(int rank, int ranks) {
  if (manifest_.version == 1) return;  // the constructor did
  int64_t i = 0;
  for (size_t s = 0; s < shards_.size(); ++s)
    if (i++ % ranks == rank) shard(static_cast<int>(s));
  for (const auto& [name, t] : manifest_.tensors)
    for (const StoredPart& part : t.parts)
      if (i++ % ranks == rank) verify_part(shard(part.shard), part, t.dtype, name);
}

const StoredTensor& CheckpointReader::tensor(const std::string& name) const {
  const auto it = manifest_.tensors.find(name);
  require(it != manifest_.tensors.end(), "{}: no tensor {}", directory_, name);
  return it->second;
}

std::vector<std::string> CheckpointReader::names() const {
  std::vector<std::string> out;
  for (const auto& [name, t] : manifest_.tensors) out.push_back(name);
  return out;
}

Tensor CheckpointReader::read(const std::string& name) {
  const Tensor whole = Tensor::empty(shape(name), dtype(name));
  read(name, Shape(shape(name).size(), 0), whole);
  return whole;
}

void CheckpointReader::read(const std::string& name, const Shape& begin, const Tensor& into) {
  const StoredTensor& stored = tensor(name);
  const size_t n = stored.shape.size();
  require(into.dtype() == stored.dtype && into.shape().size() == n && begin.size() == n,
          "{}: tensor {}: stored as {} {}, requested as {} {}", directory_, name, to_string(stored.dtype),
          to_string(stored.shape), to_string(into.dtype()), to_string(into.shape()));
  for (size_t k = 0; k < n; ++k)
    require(begin[k] >= 0 && begin[k] + into.shape()[k] <= stored.shape[k],
            "{}: tensor {} {}: the part at {} of size {} lies outside", directory_, name,
            to_string(stored.shape), to_string(begin), to_string(into.shape()));
  const int64_t element = size_of(stored.dtype);
  for (const StoredPart& part : stored.parts) {
    // The intersection of this part and the requested rectangle.
    Shape from(n), size(n);
    bool any = true;
    for (size_t k = 0; k < n; ++k) {
      from[k] = std::max(begin[k], part.begin[k]);
      size[k] = std::min(begin[k] + into.shape()[k], part.begin[k] + part.size[k]) - from[k];
      any &= size[k] > 0;
    }
    if (!any) continue;
    // The blocks that hold it.
    const auto [first, last] = extent(part, from, size);
    const int64_t begin_byte = first * element / kBlockBytes * kBlockBytes,
                  end_byte = std::min(part_bytes(part, stored.dtype),
                                      ((last + 1) * element + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
    std::vector<char> bytes(end_byte - begin_byte);
    const FileDescriptor& file = shard(part.shard);
    file.read(part.offset + begin_byte, bytes.data(), static_cast<int64_t>(bytes.size()));
    for (int64_t at = begin_byte; at < end_byte && manifest_.version > 1; at += kBlockBytes) {
      const uint64_t found = hash_of(bytes.data() + at - begin_byte, std::min(kBlockBytes, end_byte - at)),
                     expected = part.hashes[at / kBlockBytes];
      require(found == expected, "{}: tensor {}: damaged: expected xxh3 {} of the block at byte {}, found {}",
              file.path(), name, hash_text(expected), part.offset + at, hash_text(found));
    }
    copy_rows(part, bytes, begin_byte, from, size, begin, into);
  }
}

std::string newest_whole_checkpoint(const std::string& path, const Comm& comm, const std::string& run) {
  const auto report = [&](const std::string& problem) {
    if (comm.rank() == 0) std::fprintf(stderr, "wuneng: %s\n", problem.c_str());
  };
  // Rank 0 lists the candidates, so that all ranks take the same one.
  std::vector<std::string> candidates, problems;
  if (comm.rank() == 0) {
    if (fs::exists(path + "/manifest.json")) {
      candidates.push_back(path);
    } else {
      CheckpointList list = list_checkpoints(path);
      problems = std::move(list.problems);
      for (const auto& entry : list.entries)
        if (run.empty() || entry.manifest.run == run)
          candidates.push_back(path + "/" + entry.name);
        else
          problems.push_back(fmt::format("checkpoint {} cannot be used: expected one of run {}, found run {}",
                                         entry.name, run, entry.manifest.run));
    }
  }
  for (const std::string& problem : problems) report(problem);
  for (size_t i = 0;; ++i) {
    const std::string candidate =
        comm.all_gather_text(i < candidates.size() ? candidates[i] : "", "choosing a checkpoint")[0];
    if (candidate.empty()) break;
    std::string problem;
    try {
      CheckpointReader(candidate).verify(comm.rank(), comm.size());
    } catch (const std::exception& e) {
      problem = e.what();
    }
    const auto all = comm.all_gather_text(problem, "verifying a checkpoint");
    const auto bad = std::find_if(all.begin(), all.end(), [](const auto& text) { return !text.empty(); });
    if (bad == all.end()) {
      if (!problems.empty() || i > 0) report("using checkpoint " + candidate);
      return candidate;
    }
    problems.push_back(fmt::format("checkpoint {} cannot be used: {}", candidate, *bad));
    report(problems.back());
  }
  const auto texts = comm.all_gather_text(fmt::format("{}", fmt::join(problems, "; ")), "no checkpoint");
  fail_together(comm, fmt::format("{}: expected a whole checkpoint, found none{}{}", path,
                                  texts[0].empty() ? "" : ": ", texts[0]));
}

}  // namespace wuneng

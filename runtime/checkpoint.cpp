#include "runtime/checkpoint.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <set>

#include "runtime/file.h"
#include "runtime/hdf5.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
constexpr int kVersion = 1;

std::string directory_name(int64_t step) { return fmt::format("step_{:08}", step); }

std::string checksum(const std::string& path) {
  const MappedFile file = MappedFile::open(path);
  return fmt::format("{:016x}", XXH3_64bits(file.data, file.size));
}

// Runs `work` on all ranks; if it fails on any, all ranks throw the error of the first rank that failed.
template <class F>
void collectively(const Comm& comm, const char* what, const F& work) {
  std::string problem;
  try {
    work();
  } catch (const std::exception& e) {
    problem = e.what();
    if (problem.empty()) problem = "unknown error";
  }
  const auto all = comm.all_gather_text(problem, what);
  for (size_t r = 0; r < all.size(); ++r)
    require(all[r].empty(), "checkpoint: rank {} of {}: {}", r, comm.name(), all[r]);
}

// Throws unless the parts [(begin, size)] tile a tensor of this shape: every part inside, no two overlapping,
// all elements covered.
void check_tiling(const std::string& name, const Shape& shape,
                  const std::vector<std::pair<Shape, Shape>>& parts) {
  int64_t covered = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& [begin, size] = parts[i];
    require(begin.size() == shape.size() && size.size() == shape.size(),
            "checkpoint: tensor {}: a part of {} dimensions, expected {}", name, size.size(), shape.size());
    for (size_t k = 0; k < shape.size(); ++k)
      require(begin[k] >= 0 && begin[k] + size[k] <= shape[k],
              "checkpoint: tensor {} {}: a part at {} of size {} lies outside", name, to_string(shape),
              to_string(begin), to_string(size));
    covered += element_count(size);
    for (size_t j = 0; j < i; ++j) {
      bool disjoint = false;
      for (size_t k = 0; k < shape.size(); ++k)
        disjoint |=
            begin[k] >= parts[j].first[k] + parts[j].second[k] || parts[j].first[k] >= begin[k] + size[k];
      require(disjoint, "checkpoint: tensor {}: parts at {} and {} overlap", name, to_string(parts[j].first),
              to_string(begin));
    }
  }
  require(covered == element_count(shape), "checkpoint: tensor {} {}: its parts hold {} of {} elements", name,
          to_string(shape), covered, element_count(shape));
}

void write_index(const std::string& path, const json& manifest) {
  const h5::Handle file = h5::create_file(path);
  for (const auto& [name, t] : manifest["tensors"].items()) {
    const Shape shape = t["shape"];
    const DType dtype = parse_dtype(t["dtype"].get<std::string>());
    const h5::Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "dataset properties");
    for (const json& part : t["parts"]) {
      const std::vector<hsize_t> size = part["size"], begin = part["begin"],
                                 whole(shape.begin(), shape.end());
      if (size.empty() || element_count(part["size"]) == 0) continue;
      const h5::Handle from(H5Screate_simple(static_cast<int>(size.size()), size.data(), nullptr), H5Sclose,
                            "dataspace");
      const h5::Handle to(H5Screate_simple(static_cast<int>(whole.size()), whole.data(), nullptr), H5Sclose,
                          "dataspace");
      h5::check(H5Sselect_hyperslab(to, H5S_SELECT_SET, begin.data(), nullptr, size.data(), nullptr),
                "selecting a part of " + name);
      const std::string source = manifest["shards"][part["shard"].get<int>()]["file"];
      h5::check(H5Pset_virtual(properties, to, source.c_str(), name.c_str(), from),
                "virtual dataset " + name);
    }
    h5::create_dataset(file, name, dtype, shape, properties);
  }
}

json shard_manifest(const std::string& directory, const std::string& file,
                    const std::vector<CheckpointPiece>& pieces) {
  const std::string path = directory + "/" + file;
  {
    const h5::Handle out = h5::create_file(path);
    for (const CheckpointPiece& p : pieces) h5::write(out, p.name, p.data);
  }
  sync_path(path);
  json parts = json::array();
  for (const CheckpointPiece& p : pieces)
    parts.push_back({{"name", p.name},
                     {"dtype", std::string(to_string(p.data.dtype()))},
                     {"shape", p.global_shape},
                     {"begin", p.begin},
                     {"size", p.data.shape()}});
  return {{"file", file}, {"size", fs::file_size(path)}, {"xxh3", checksum(path)}, {"parts", parts}};
}

json merge_manifests(const std::vector<std::string>& texts, int64_t step, const json& meta) {
  json manifest = {
      {"format", "wuneng checkpoint"}, {"version", kVersion},      {"step", step}, {"meta", meta},
      {"shards", json::array()},       {"tensors", json::object()}};
  for (const std::string& text : texts) {
    if (text.empty()) continue;
    json shard = json::parse(text);
    const int index = static_cast<int>(manifest["shards"].size());
    for (const json& part : shard["parts"]) {
      json& t = manifest["tensors"][part["name"].get<std::string>()];
      if (t.is_null()) t = {{"dtype", part["dtype"]}, {"shape", part["shape"]}, {"parts", json::array()}};
      require(t["dtype"] == part["dtype"] && t["shape"] == part["shape"],
              "checkpoint: tensor {}: ranks disagree on its type or shape", part["name"].get<std::string>());
      t["parts"].push_back({{"shard", index}, {"begin", part["begin"]}, {"size", part["size"]}});
    }
    shard.erase("parts");
    manifest["shards"].push_back(shard);
  }
  for (const auto& [name, t] : manifest["tensors"].items()) {
    std::vector<std::pair<Shape, Shape>> parts;
    for (const json& part : t["parts"]) parts.emplace_back(part["begin"], part["size"]);
    check_tiling(name, t["shape"], parts);
  }
  return manifest;
}

std::vector<std::string> complete_checkpoints(const std::string& root) {  // newest first
  std::vector<std::string> out;
  if (!fs::is_directory(root)) return out;
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename();
    if (name.rfind("step_", 0) == 0 && name.find('.') == std::string::npos &&
        fs::exists(entry.path() / "manifest.json"))
      out.push_back(name);
  }
  std::sort(out.rbegin(), out.rend());
  return out;
}

}  // namespace

std::string save_checkpoint(const Comm& comm, const std::string& root, int64_t step,
                            const std::vector<CheckpointPiece>& pieces, const json& meta) {
  const std::string final = root + "/" + directory_name(step), partial = final + ".partial",
                    old = final + ".old";
  collectively(comm, "checkpoint: making the directory", [&] {
    if (comm.rank() != 0) return;
    fs::remove_all(partial);
    fs::create_directories(partial);
  });
  std::string mine;
  collectively(comm, "checkpoint: writing shard files", [&] {
    if (!pieces.empty())
      mine = shard_manifest(partial, fmt::format("shard_{:05}.h5", comm.rank()), pieces).dump();
  });
  const auto texts = comm.all_gather_text(mine, "checkpoint: manifests");
  collectively(comm, "checkpoint: committing", [&] {
    if (comm.rank() != 0) return;
    const json manifest = merge_manifests(texts, step, meta);
    write_index(partial + "/index.h5", manifest);
    sync_path(partial + "/index.h5");
    write_file_durably(partial + "/manifest.json", manifest.dump(1) + "\n");
    fs::remove_all(old);
    if (fs::exists(final)) fs::rename(final, old);
    fs::rename(partial, final);
    sync_path(root);
    fs::remove_all(old);
    write_file_durably(root + "/latest", directory_name(step) + "\n");
  });
  return final;
}

void prune_checkpoints(const std::string& root, int64_t keep) {
  const auto all = complete_checkpoints(root);
  for (size_t i = keep; keep > 0 && i < all.size(); ++i) fs::remove_all(root + "/" + all[i]);
}

bool has_checkpoint(const std::string& path) {
  return fs::exists(path + "/manifest.json") || !complete_checkpoints(path).empty();
}

CheckpointReader::CheckpointReader(const std::string& path) {
  if (fs::exists(path + "/manifest.json")) {
    open(path);
    return;
  }
  std::vector<std::string> candidates = complete_checkpoints(path);
  if (fs::exists(path + "/latest")) {
    std::string latest = read_file(path + "/latest");
    latest.erase(latest.find_last_not_of(" \n") + 1);
    const auto at = std::find(candidates.begin(), candidates.end(), latest);
    if (at != candidates.end())
      std::rotate(candidates.begin(), at, at + 1);
    else
      std::fprintf(stderr, "wuneng: %s/latest names %s, which is not a complete checkpoint there\n",
                   path.c_str(), latest.c_str());
  }
  require(!candidates.empty(), "{}: expected a checkpoint, found none", path);
  std::string problems;
  for (const std::string& name : candidates) {
    try {
      open(path + "/" + name);
      for (ShardFile& shard : shards_) verify(shard);
      if (!problems.empty())
        std::fprintf(stderr, "wuneng: using the older checkpoint %s\n", directory_.c_str());
      return;
    } catch (const std::exception& e) {
      std::fprintf(stderr, "wuneng: checkpoint %s cannot be used: %s\n", name.c_str(), e.what());
      problems += std::string(problems.empty() ? "" : "; ") + e.what();
    }
  }
  fail("{}: expected a usable checkpoint, found none: {}", path, problems);
}

void CheckpointReader::open(const std::string& directory) {
  directory_ = directory;
  tensors_.clear();
  shards_.clear();
  const std::string path = directory + "/manifest.json";
  try {
    const json manifest = json::parse(read_file(path));
    require(manifest.at("format") == "wuneng checkpoint" && manifest.at("version") == kVersion,
            "{}: expected a wuneng checkpoint of version {}, found {} of version {}", path, kVersion,
            manifest.at("format").dump(), manifest.at("version").dump());
    step_ = manifest.at("step");
    meta_ = manifest.at("meta");
    for (const json& s : manifest.at("shards")) {
      const std::string file = s.at("file");
      require(!file.empty() && file.find('/') == std::string::npos && file.find('\\') == std::string::npos &&
                  file != "..",
              "{}: '{}' is not a plain file name", path, file);
      shards_.push_back({file, s.at("size"), s.at("xxh3")});
    }
    for (const auto& [name, t] : manifest.at("tensors").items()) {
      StoredTensor stored{t.at("shape"), parse_dtype(t.at("dtype").get<std::string>()), {}};
      std::vector<std::pair<Shape, Shape>> parts;
      for (const json& part : t.at("parts")) {
        const int shard = part.at("shard");
        require(shard >= 0 && shard < static_cast<int>(shards_.size()),
                "{}: tensor {}: expected a shard file in [0, {}), found {}", path, name, shards_.size(),
                shard);
        parts.emplace_back(part.at("begin"), part.at("size"));
        stored.parts.emplace_back(shard, parts.back());
      }
      check_tiling(name, stored.shape, parts);
      tensors_[name] = std::move(stored);
    }
  } catch (const json::exception& e) {
    fail("{}: not a manifest: {}", path, e.what());
  }
}

void CheckpointReader::verify(ShardFile& shard) const {
  if (shard.verified) return;
  const std::string path = directory_ + "/" + shard.file;
  require(fs::exists(path), "{}: expected a file, found none", path);
  require(static_cast<int64_t>(fs::file_size(path)) == shard.size, "{}: expected {} bytes, found {}", path,
          shard.size, fs::file_size(path));
  const std::string found = checksum(path);
  require(found == shard.checksum, "{}: damaged: expected xxh3 {}, found {}", path, shard.checksum, found);
  shard.verified = true;
}

const CheckpointReader::StoredTensor& CheckpointReader::tensor(const std::string& name) const {
  const auto it = tensors_.find(name);
  require(it != tensors_.end(), "{}: no tensor {}", directory_, name);
  return it->second;
}

std::vector<std::string> CheckpointReader::names() const {
  std::vector<std::string> out;
  for (const auto& [name, t] : tensors_) out.push_back(name);
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
  for (const auto& [index, part] : stored.parts) {
    // The intersection of this part and the requested rectangle.
    Shape from(n), size(n);
    bool any = true;
    for (size_t k = 0; k < n; ++k) {
      from[k] = std::max(begin[k], part.first[k]);
      size[k] = std::min(begin[k] + into.shape()[k], part.first[k] + part.second[k]) - from[k];
      any &= size[k] > 0;
    }
    if (!any) continue;
    ShardFile& shard = shards_[index];
    verify(shard);
    const h5::Handle file = h5::open_file(directory_ + "/" + shard.file);
    const Tensor common = Tensor::empty(size, stored.dtype);
    Shape inside(n);
    for (size_t k = 0; k < n; ++k) inside[k] = from[k] - part.first[k];
    h5::read(file, name, inside, common);
    // Copy row by row.
    const int64_t width = n ? size[n - 1] : 1, bytes = width * size_of(stored.dtype),
                  rows = common.numel() / width;
    std::vector<int64_t> at(n, 0);
    for (int64_t r = 0; r < rows; ++r) {
      int64_t to = 0;
      for (size_t k = 0; k < n; ++k) to = to * into.shape()[k] + from[k] - begin[k] + (k + 1 < n ? at[k] : 0);
      std::memcpy(static_cast<char*>(into.raw()) + to * size_of(stored.dtype),
                  static_cast<const char*>(common.raw()) + r * bytes, bytes);
      for (int k = static_cast<int>(n) - 2; k >= 0 && ++at[k] == size[k]; --k) at[k] = 0;
    }
  }
}

}  // namespace wuneng

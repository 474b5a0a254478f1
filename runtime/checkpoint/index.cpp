#include "runtime/checkpoint/index.h"

#include "runtime/checkpoint/shard.h"
#include "runtime/hdf5.h"

namespace wuneng {
namespace {

void select(hid_t space, const Shape& begin, const Shape& size, const std::string& name) {
  const std::vector<hsize_t> first(begin.begin(), begin.end()), count(size.begin(), size.end());
  h5::check(H5Sselect_hyperslab(space, H5S_SELECT_SET, first.data(), nullptr, count.data(), nullptr),
            "selecting a part of " + name);
}

}  // namespace

StoredFile write_index(const std::string& directory, const Manifest& manifest) {
  const std::string file = "index.h5";
  h5::FileWriter out(directory + "/" + file);
  for (const auto& [name, t] : manifest.tensors) {
    const h5::Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "dataset properties");
    std::map<int, int64_t> parts;  // by shard
    for (const StoredPart& part : t.parts) {
      const std::string dataset = dataset_name(name, parts[part.shard]++);
      if (element_count(part.size) == 0) continue;
      const h5::Handle from = h5::dataspace(part.size), to = h5::dataspace(t.shape);
      if (!t.shape.empty()) select(to, part.begin, part.size, name);
      h5::check(
          H5Pset_virtual(properties, to, manifest.shards[part.shard].name.c_str(), dataset.c_str(), from),
          "virtual dataset " + name);
    }
    out.add_virtual(name, t.dtype, t.shape, properties);
  }
  out.finish();
  const StoredFile stored{file, out.output().size(), out.metadata_hash()};
  out.commit();
  return stored;
}

}  // namespace wuneng

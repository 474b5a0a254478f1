#include "runtime/hdf5.h"

#include <vector>

#include "runtime/hash.h"
#include "runtime/hdf5_image.h"

namespace wuneng::h5 {
namespace {

// bf16 and f16 are not types of HDF5: the attribute names them.
void mark_dtype(hid_t dataset, DType dtype) {
  if (dtype != DType::bf16 && dtype != DType::f16) return;
  const std::string name(to_string(dtype));
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose, "text type");
  check(H5Tset_size(type, name.size()), "text type");
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose, "dataspace");
  const Handle attribute(H5Acreate2(dataset, "dtype", type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                         "attribute dtype");
  check(H5Awrite(attribute, type, name.data()), "writing attribute dtype");
}

Handle create_dataset(hid_t file, const std::string& name, DType dtype, const Shape& shape,
                      hid_t properties) {
  const Handle space = dataspace(shape);
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose, "link properties");
  check(H5Pset_create_intermediate_group(links, 1), "link properties");
  Handle dataset(H5Dcreate2(file, name.c_str(), type_of(dtype), space, links, properties, H5P_DEFAULT),
                 H5Dclose, "creating dataset " + name);
  mark_dtype(dataset, dtype);
  return dataset;
}

}  // namespace

void quiet() {
  static const herr_t once = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  (void)once;
}

Handle::Handle(hid_t id, herr_t (*close)(hid_t), const std::string& what) : id_(id), close_(close) {
  quiet();
  require(id >= 0, "HDF5: {} failed", what);
}

// Only memory is released here: files are written by FileWriter, whose steps are checked.
Handle::~Handle() {
  if (id_ >= 0) close_(id_);
}

void Handle::close(const std::string& what) { check(close_(std::exchange(id_, -1)), what); }

void check(herr_t status, const std::string& what) { require(status >= 0, "HDF5: {} failed", what); }

hid_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return H5T_IEEE_F32LE;
    case DType::f64:
      return H5T_IEEE_F64LE;
    case DType::bf16:
    case DType::f16:
      return H5T_STD_U16LE;
    case DType::i32:
      return H5T_STD_I32LE;
    case DType::i64:
      return H5T_STD_I64LE;
    case DType::u8:
      return H5T_STD_U8LE;
    case DType::i8:
      return H5T_STD_I8LE;
  }
  return -1;
}

Handle dataspace(const Shape& shape) {
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  return Handle(dims.empty() ? H5Screate(H5S_SCALAR)
                             : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
                H5Sclose, "dataspace");
}

FileWriter::FileWriter(const std::string& path) : output_(path), image_(std::make_unique<FileImage>()) {}
FileWriter::~FileWriter() = default;

int64_t FileWriter::add(const std::string& name, DType dtype, const Shape& shape) {
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "dataset properties");
  check(H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY), "dataset properties");
  check(H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER), "dataset properties");
  const Handle dataset = create_dataset(image_->id(), name, dtype, shape, properties);
  const int64_t bytes = element_count(shape) * size_of(dtype);
  if (bytes == 0) return 0;
  const haddr_t offset = H5Dget_offset(dataset);
  require(offset != HADDR_UNDEF, "HDF5: dataset {} has no place in the file", name);
  data_.push_back({static_cast<int64_t>(offset), bytes});
  return static_cast<int64_t>(offset);
}

void FileWriter::add(const std::string& name, const Tensor& tensor) {
  const int64_t offset = add(name, tensor.dtype(), tensor.shape());
  output_.write_at(offset, tensor.to(Device{}).raw(), tensor.bytes());
}

void FileWriter::add_virtual(const std::string& name, DType dtype, const Shape& shape, hid_t properties) {
  create_dataset(image_->id(), name, dtype, shape, properties);
}

void FileWriter::finish() {
  image_->close();
  Hash hash;
  std::vector<char> bytes;
  for (const ByteRange& gap : complement(data_, image_->size())) {
    bytes.resize(gap.bytes);
    image_->read(gap.begin, bytes.data(), gap.bytes);
    hash.add(bytes.data(), gap.bytes);
    output_.write_at(gap.begin, bytes.data(), gap.bytes);
  }
  metadata_hash_ = hash.value();
}

int64_t offset_of_dataset(const std::string& path, const std::string& name, DType dtype, const Shape& shape) {
  quiet();
  const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "opening " + path);
  const Handle dataset(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose,
                       path + ": opening dataset " + name);
  const Handle type(H5Dget_type(dataset), H5Tclose, name), space(H5Dget_space(dataset), H5Sclose, name);
  std::vector<hsize_t> dims(std::max(0, H5Sget_simple_extent_ndims(space)));
  check(H5Sget_simple_extent_dims(space, dims.data(), nullptr), name);
  require(H5Tequal(type, type_of(dtype)) > 0 && Shape(dims.begin(), dims.end()) == shape,
          "{}: dataset {}: expected {} {}, found another type or shape", path, name, to_string(dtype),
          to_string(shape));
  if (element_count(shape) == 0) return 0;
  const haddr_t offset = H5Dget_offset(dataset);
  require(offset != HADDR_UNDEF, "{}: dataset {}: expected contiguous elements, found none", path, name);
  return static_cast<int64_t>(offset);
}

}  // namespace wuneng::h5

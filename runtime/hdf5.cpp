#include "runtime/hdf5.h"

#include <array>
#include <vector>

namespace wuneng::h5 {
namespace {

void quiet() {  // errors are exceptions here; HDF5 would print its error stack too
  static const herr_t once = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  (void)once;
}

std::vector<hsize_t> dims(const Shape& shape) { return {shape.begin(), shape.end()}; }

Handle simple_space(const Shape& shape) {
  const auto d = dims(shape);
  return Handle(
      d.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(static_cast<int>(d.size()), d.data(), nullptr),
      H5Sclose, "dataspace");
}

}  // namespace

Handle::Handle(hid_t id, herr_t (*close)(hid_t), const std::string& what) : id_(id), close_(close) {
  quiet();
  require(id >= 0, "HDF5: {} failed", what);
}

Handle::~Handle() {
  if (id_ >= 0) close_(id_);
}

void check(herr_t status, const std::string& what) { require(status >= 0, "HDF5: {} failed", what); }

Handle create_file(const std::string& path) {
  quiet();
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "file access");
  check(H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V110), "limiting the format version");
  return Handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose, "creating " + path);
}

Handle open_file(const std::string& path) {
  quiet();
  return Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "opening " + path);
}

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
  }
  return -1;
}

void mark_dtype(hid_t dataset, DType dtype) {
  if (dtype != DType::bf16 && dtype != DType::f16) return;
  const std::string name(to_string(dtype));
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose, "text type");
  H5Tset_size(type, name.size());
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose, "dataspace");
  const Handle attribute(H5Acreate2(dataset, "dtype", type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                         "attribute dtype");
  check(H5Awrite(attribute, type, name.data()), "writing attribute dtype");
}

DType dtype_of_dataset(hid_t dataset, const std::string& where) {
  const Handle type(H5Dget_type(dataset), H5Tclose, where + ": type");
  for (DType d : {DType::f32, DType::f64, DType::i32, DType::i64, DType::u8})
    if (H5Tequal(type, type_of(d)) > 0) return d;
  require(H5Tequal(type, H5T_STD_U16LE) > 0 && H5Aexists(dataset, "dtype") > 0,
          "{}: unsupported HDF5 element type", where);
  const Handle attribute(H5Aopen(dataset, "dtype", H5P_DEFAULT), H5Aclose, where + ": attribute dtype");
  const Handle text(H5Aget_type(attribute), H5Tclose, where + ": attribute dtype");
  std::string name(H5Tget_size(text), '\0');
  check(H5Aread(attribute, text, name.data()), where + ": attribute dtype");
  return parse_dtype(name);
}

Handle create_dataset(hid_t file, const std::string& name, DType dtype, const Shape& shape,
                      hid_t properties) {
  const Handle space = simple_space(shape);
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose, "link properties");
  check(H5Pset_create_intermediate_group(links, 1), "link properties");
  Handle dataset(H5Dcreate2(file, name.c_str(), type_of(dtype), space, links, properties, H5P_DEFAULT),
                 H5Dclose, "creating dataset " + name);
  mark_dtype(dataset, dtype);
  return dataset;
}

void write(hid_t file, const std::string& name, const Tensor& tensor) {
  const Handle dataset = create_dataset(file, name, tensor.dtype(), tensor.shape(), H5P_DEFAULT);
  if (tensor.numel())
    check(
        H5Dwrite(dataset, type_of(tensor.dtype()), H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.to(Device{}).raw()),
        "writing dataset " + name + " (disk full?)");
}

void read(hid_t file, const std::string& name, const Shape& begin, const Tensor& into) {
  const Handle dataset(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose, "opening dataset " + name);
  const DType stored = dtype_of_dataset(dataset, name);
  require(stored == into.dtype(), "dataset {}: expected {}, found {}", name, to_string(into.dtype()),
          to_string(stored));
  if (!into.numel()) return;
  const Handle space(H5Dget_space(dataset), H5Sclose, name), memory = simple_space(into.shape());
  if (!begin.empty()) {
    const auto start = dims(begin), count = dims(into.shape());
    check(H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr),
          "selecting a part of " + name);
  }
  check(H5Dread(dataset, type_of(stored), memory, space, H5P_DEFAULT, into.raw()), "reading dataset " + name);
}

}  // namespace wuneng::h5

// RAII handles for HDF5, and errors that name file and dataset.
#pragma once
#include <hdf5.h>

#include <string>

#include "runtime/tensor.h"

namespace wuneng::h5 {

// An HDF5 identifier and its close function.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::string& what);
  Handle(Handle&& other) noexcept : id_(other.id_), close_(other.close_) { other.id_ = -1; }
  Handle(const Handle&) = delete;
  ~Handle();
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

Handle create_file(const std::string& path);  // truncates; limits the format version for older readers
Handle open_file(const std::string& path);    // read-only
hid_t type_of(DType dtype);  // little-endian file type; bf16 and f16 are stored as u16 (see mark_dtype)
DType dtype_of_dataset(hid_t dataset, const std::string& where);
void mark_dtype(hid_t dataset, DType dtype);  // the attribute `dtype`, for types that HDF5 does not have
void check(herr_t status, const std::string& what);

// Writes a tensor as a new dataset; groups in the name are made as needed.
void write(hid_t file, const std::string& name, const Tensor& tensor);
// Creates a dataset of `shape` with the given creation properties (e.g. virtual).
Handle create_dataset(hid_t file, const std::string& name, DType dtype, const Shape& shape, hid_t properties);
// Reads the hyper-rectangle that begins at `begin` into a tensor of the same rank.
void read(hid_t file, const std::string& name, const Shape& begin, const Tensor& into);

}  // namespace wuneng::h5

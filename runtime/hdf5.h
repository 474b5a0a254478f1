// HDF5: RAII handles, element types, and a writer of files.
#pragma once
#include <hdf5.h>

#include <memory>
#include <optional>
#include <string>

#include "runtime/file.h"
#include "runtime/tensor.h"

namespace wuneng::h5 {

// An HDF5 identifier and its close function.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::string& what);
  Handle(Handle&& other) noexcept : id_(other.id_), close_(other.close_) { other.id_ = -1; }
  Handle(const Handle&) = delete;
  ~Handle();
  void close(const std::string& what);  // throws where the library fails
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

void quiet();  // errors are exceptions here; HDF5 would print its error stack too
void check(herr_t status, const std::string& what);
hid_t type_of(DType dtype);  // little-endian file type; bf16 and f16 are stored as u16 with attribute `dtype`
Handle dataspace(const Shape& shape);

class FileImage;

// Writes a file with contiguous datasets. The library makes the metadata in memory (hdf5_image.h); all bytes
// go to the disk through OutputFile, so that the file appears when it is complete.
class FileWriter {
 public:
  explicit FileWriter(const std::string& path);
  ~FileWriter();

  // Creates a dataset whose elements the caller writes to output() at the returned offset. Groups in the name
  // are made as needed. A dataset without elements has offset 0.
  int64_t add(const std::string& name, DType dtype, const Shape& shape);
  void add(const std::string& name, const Tensor& tensor);  // and writes it
  // A dataset that shows parts of other files: the creation properties say which.
  void add_virtual(const std::string& name, DType dtype, const Shape& shape, hid_t properties);

  // Ends the metadata and writes it. No dataset can be added afterwards.
  void finish();
  // After finish(): XXH3 of all bytes that are not elements of a dataset, in the order of the file, and the
  // file's size.
  uint64_t metadata_hash() const { return metadata_hash_; }
  OutputFile& output() { return output_; }
  void commit() { output_.commit(); }

 private:
  OutputFile output_;
  std::unique_ptr<FileImage> image_;
  std::vector<ByteRange> data_;  // of the datasets' elements
  uint64_t metadata_hash_ = 0;
};

// For files of older versions: the offset of a contiguous dataset's elements, checked for type and shape.
int64_t offset_of_dataset(const std::string& path, const std::string& name, DType dtype, const Shape& shape);

}  // namespace wuneng::h5

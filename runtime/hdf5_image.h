// An HDF5 file's metadata in memory. HDF5 does no input or output of its own: a file driver keeps what the
// library writes, and the caller writes these bytes and the elements of the datasets with checked calls. So
// a full disk is one error with a reason, and the library never meets it while it closes a file.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "runtime/hdf5.h"

namespace wuneng::h5 {

class FileImage {
 public:
  FileImage();
  FileImage(const FileImage&) = delete;

  hid_t id() const { return *file_; }
  void close();  // the library writes its last metadata; afterwards size() is that of the file
  int64_t size() const { return end_; }
  // Bytes [offset, offset + bytes) of the metadata; zeros where the library wrote nothing.
  void read(int64_t offset, void* into, int64_t bytes) const;

 private:
  friend struct Driver;
  static constexpr int64_t kPage = 4096;
  void write(int64_t offset, const void* from, int64_t bytes);

  std::map<int64_t, std::array<char, kPage>> pages_;  // page number → content
  int64_t end_ = 0;
  std::optional<Handle> file_;
};

}  // namespace wuneng::h5

#include "runtime/hdf5_image.h"

#include <algorithm>
#include <cstring>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

namespace wuneng::h5 {

// The functions of a file driver (HDF5's H5FD_class_t). One open file has one FileImage.
struct Driver {
  struct Access {  // the driver's part of a file access property list
    FileImage* image;
  };
  struct File {
    H5FD_t base;  // must be first
    FileImage* image;
    haddr_t end_of_allocation;
  };
  static File* of(H5FD_t* f) { return reinterpret_cast<File*>(f); }
  static const File* of(const H5FD_t* f) { return reinterpret_cast<const File*>(f); }

  static H5FD_t* open(const char*, unsigned, hid_t access, haddr_t) {
    const auto* ours = static_cast<const Access*>(H5Pget_driver_info(access));
    if (!ours) return nullptr;
    return &(new File{{}, ours->image, 0})->base;
  }
  static herr_t close(H5FD_t* f) {
    delete of(f);
    return 0;
  }
  static herr_t query(const H5FD_t*, unsigned long* flags) {
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA;
    return 0;
  }
  static haddr_t get_eoa(const H5FD_t* f, H5FD_mem_t) { return of(f)->end_of_allocation; }
  static herr_t set_eoa(H5FD_t* f, H5FD_mem_t, haddr_t end) {
    of(f)->end_of_allocation = end;
    return 0;
  }
  static haddr_t get_eof(const H5FD_t* f, H5FD_mem_t) { return static_cast<haddr_t>(of(f)->image->end_); }
  static herr_t read(H5FD_t* f, H5FD_mem_t, hid_t, haddr_t at, size_t bytes, void* into) {
    of(f)->image->read(static_cast<int64_t>(at), into, static_cast<int64_t>(bytes));
    return 0;
  }
  static herr_t write(H5FD_t* f, H5FD_mem_t, hid_t, haddr_t at, size_t bytes, const void* from) {
    of(f)->image->write(static_cast<int64_t>(at), from, static_cast<int64_t>(bytes));
    return 0;
  }
  static herr_t truncate(H5FD_t* f, hid_t, hbool_t) {
    of(f)->image->end_ = static_cast<int64_t>(of(f)->end_of_allocation);
    return 0;
  }

  static hid_t id() {
    static const hid_t registered = [] {
      static H5FD_class_t driver{};
#if H5_VERSION_GE(1, 13, 0)
      driver.version = H5FD_CLASS_VERSION;
      driver.value = static_cast<H5FD_class_value_t>(517);  // in the range for private drivers
#endif
      driver.name = "wuneng_image";
      driver.maxaddr = static_cast<haddr_t>(INT64_MAX);
      driver.fc_degree = H5F_CLOSE_STRONG;
      driver.fapl_size = sizeof(Access);
      driver.open = open;
      driver.close = close;
      driver.query = query;
      driver.get_eoa = get_eoa;
      driver.set_eoa = set_eoa;
      driver.get_eof = get_eof;
      driver.read = read;
      driver.write = write;
      driver.truncate = truncate;
      const H5FD_mem_t one_list[] = H5FD_FLMAP_SINGLE;
      std::copy(std::begin(one_list), std::end(one_list), driver.fl_map);
      return H5FDregister(&driver);
    }();
    return registered;
  }
};

FileImage::FileImage() {
  quiet();
  require(Driver::id() >= 0, "HDF5: registering a file driver failed");
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "file access");
  const Driver::Access ours{this};
  check(H5Pset_driver(access, Driver::id(), &ours), "setting the file driver");
  // Readable by older versions of the library; large data on page boundaries.
  check(H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V110), "limiting the format version");
  check(H5Pset_alignment(access, 1 << 16, kPage), "aligning data");
  file_.emplace(H5Fcreate("image", H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose,
                "creating a file in memory");
}

void FileImage::close() { file_->close("closing a file in memory"); }

void FileImage::read(int64_t offset, void* into, int64_t bytes) const {
  char* to = static_cast<char*>(into);
  while (bytes > 0) {
    const int64_t inside = offset % kPage, n = std::min(bytes, kPage - inside);
    const auto page = pages_.find(offset / kPage);
    if (page == pages_.end())
      std::memset(to, 0, n);
    else
      std::memcpy(to, page->second.data() + inside, n);
    to += n, offset += n, bytes -= n;
  }
}

void FileImage::write(int64_t offset, const void* from, int64_t bytes) {
  const char* at = static_cast<const char*>(from);
  end_ = std::max(end_, offset + bytes);
  while (bytes > 0) {
    const int64_t inside = offset % kPage, n = std::min(bytes, kPage - inside);
    std::memcpy(pages_.try_emplace(offset / kPage).first->second.data() + inside, at, n);
    at += n, offset += n, bytes -= n;
  }
}

}  // namespace wuneng::h5

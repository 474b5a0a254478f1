// A file's bytes in pieces, unpacked where it is gzip or zstd: known by its first bytes, whatever its name.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace wuneng {

// Reads on from where it is, in bounded memory. Files of several gzip members or zstd frames are read
// through; one that is cut short or damaged is an error that names the file.
class ByteStream {
 public:
  static std::unique_ptr<ByteStream> open(const std::string& path);
  virtual ~ByteStream() = default;
  // Up to `most` bytes into `to`; 0 at the end alone.
  virtual int64_t read(char* to, int64_t most) = 0;
  // Bytes of the file as it lies on the disk that have been taken so far.
  virtual int64_t consumed() const = 0;
};

}  // namespace wuneng

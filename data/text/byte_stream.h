// ByteStream: reads a file in pieces and decompresses gzip and zstd, recognised by the first bytes, not by
// the name.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace wuneng {

// Sequential reading in bounded memory. Files of several gzip members or zstd frames are read to the end; a
// truncated or damaged file is an error that names it.
class ByteStream {
 public:
  static std::unique_ptr<ByteStream> open(const std::string& path);
  virtual ~ByteStream() = default;
  // Reads up to `most` bytes into `to`; returns 0 only at the end.
  virtual int64_t read(char* to, int64_t most) = 0;
  // Bytes of the (compressed) file read so far.
  virtual int64_t consumed() const = 0;
};

}  // namespace wuneng

// ByteStream: reads a file in pieces, unpacked, and text in UTF-8 whatever its encoding.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace wuneng {

// Sequential reading in bounded memory.
class ByteStream {
 public:
  // The file as it is on the disk.
  static std::unique_ptr<ByteStream> open(const std::string& path);
  virtual ~ByteStream() = default;
  // Reads up to `most` bytes into `to`; returns 0 only at the end.
  virtual int64_t read(char* to, int64_t most) = 0;
  // Bytes of the file on the disk read so far.
  virtual int64_t consumed() const = 0;
};

// A stream whose next bytes can be looked at before they are read.
class PeekStream : public ByteStream {
 public:
  explicit PeekStream(std::unique_ptr<ByteStream> stream) : stream_(std::move(stream)) {}
  // The next `bytes` bytes, fewer only at the end.
  std::string_view peek(int64_t bytes);
  int64_t read(char* to, int64_t most) override;
  int64_t consumed() const override { return stream_->consumed(); }

 private:
  std::unique_ptr<ByteStream> stream_;
  std::string ahead_;
  size_t at_ = 0;  // ahead_ has been read up to here
};

// The file's content: gzip, bzip2, xz and zstd, recognised by the first bytes, are unpacked, with all their
// members. Errors that name the file: it is damaged or cut short, it is not packed as its name says, or its
// first bytes, packed or not, are those of a file that is no text (data/text/file_kind.h).
std::unique_ptr<PeekStream> open_unpacked(const std::string& path);

}  // namespace wuneng

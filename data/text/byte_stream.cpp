#include "data/text/byte_stream.h"

#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <vector>

#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr size_t kPiece = 1 << 18;

class PlainStream : public ByteStream {
 public:
  explicit PlainStream(const std::string& path)
      : path_(path), file_(std::fopen(path.c_str(), "rb"), &std::fclose) {
    require(file_ != nullptr, "{}: cannot be read: {}", path, std::strerror(errno));
  }
  int64_t read(char* to, int64_t most) override {
    const size_t got = std::fread(to, 1, static_cast<size_t>(most), file_.get());
    require(std::ferror(file_.get()) == 0, "{}: cannot be read on at byte {}: {}", path_, consumed_,
            std::strerror(errno));
    consumed_ += static_cast<int64_t>(got);
    return static_cast<int64_t>(got);
  }
  int64_t consumed() const override { return consumed_; }

 private:
  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  int64_t consumed_ = 0;
};

// Base of the decompressors: a buffer of compressed bytes.
class PackedStream : public ByteStream {
 public:
  explicit PackedStream(const std::string& path) : path_(path), file_(path), packed_(kPiece) {}
  int64_t consumed() const override { return file_.consumed(); }

 protected:
  bool refill() {
    available_ = static_cast<size_t>(file_.read(packed_.data(), kPiece));
    next_ = packed_.data();
    return available_ > 0;
  }
  std::string path_;
  PlainStream file_;
  std::vector<char> packed_;
  const char* next_ = nullptr;
  size_t available_ = 0;
};

class GzipStream : public PackedStream {
 public:
  explicit GzipStream(const std::string& path) : PackedStream(path) {
    // + 16: gzip header and checksum.
    require(inflateInit2(&z_, 15 + 16) == Z_OK, "{}: zlib cannot be started", path);
  }
  ~GzipStream() override { inflateEnd(&z_); }

  int64_t read(char* to, int64_t most) override {
    z_.next_out = reinterpret_cast<Bytef*>(to);
    z_.avail_out = static_cast<uInt>(std::min<int64_t>(most, 1 << 30));
    const uInt wanted = z_.avail_out;
    while (z_.avail_out == wanted) {
      if (available_ == 0 && !refill()) {
        require(!inside_, "{}: gzip: expected more after byte {}, found the end: the file is cut short",
                path_, consumed());
        return 0;
      }
      if (!inside_) {
        inflateReset(&z_);
        inside_ = true;
      }
      z_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(next_));
      z_.avail_in = static_cast<uInt>(available_);
      const int status = inflate(&z_, Z_NO_FLUSH);
      next_ += available_ - z_.avail_in;
      available_ = z_.avail_in;
      require(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR,
              "{}: gzip: damaged before byte {}: {}", path_, consumed() - static_cast<int64_t>(available_),
              z_.msg ? z_.msg : "no message");
      if (status == Z_STREAM_END) inside_ = false;
    }
    return wanted - z_.avail_out;
  }

 private:
  z_stream z_{};
  bool inside_ = false;  // inside a gzip member
};

class ZstdStream : public PackedStream {
 public:
  explicit ZstdStream(const std::string& path)
      : PackedStream(path), context_(ZSTD_createDCtx(), &ZSTD_freeDCtx) {
    require(context_ != nullptr, "{}: zstd cannot be started", path);
  }

  int64_t read(char* to, int64_t most) override {
    ZSTD_outBuffer out{to, static_cast<size_t>(most), 0};
    while (out.pos == 0) {
      // At the end of the file the decoder may still hold bytes that did not fit into the last output.
      if (available_ == 0 && !refill() && !full_before_) {
        require(!inside_, "{}: zstd: expected more after byte {}, found the end: the file is cut short",
                path_, consumed());
        return 0;
      }
      ZSTD_inBuffer in{next_, available_, 0};
      const size_t left = ZSTD_decompressStream(context_.get(), &out, &in);
      next_ += in.pos;
      available_ -= in.pos;
      require(!ZSTD_isError(left), "{}: zstd: damaged before byte {}: {}", path_,
              consumed() - static_cast<int64_t>(available_), ZSTD_getErrorName(left));
      inside_ = left != 0;
      full_before_ = inside_ && out.pos == out.size;
    }
    return static_cast<int64_t>(out.pos);
  }

 private:
  std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context_;
  bool inside_ = false, full_before_ = false;
};

}  // namespace

std::unique_ptr<ByteStream> ByteStream::open(const std::string& path) {
  // Neither is valid UTF-8: 8b and b5 cannot follow 1f and 28.
  constexpr std::string_view kGzip("\x1f\x8b"), kZstd("\x28\xb5\x2f\xfd");
  char begin[4];
  const std::string_view found(begin, static_cast<size_t>(PlainStream(path).read(begin, sizeof begin)));
  if (found.starts_with(kGzip)) return std::make_unique<GzipStream>(path);
  if (found.starts_with(kZstd)) return std::make_unique<ZstdStream>(path);
  const auto claims = [&](const char* ending) { return path.ends_with(ending); };
  require(!claims(".gz") && !claims(".zst"),
          "{}: expected a compressed file as its name says, found other first bytes", path);
  return std::make_unique<PlainStream>(path);
}

}  // namespace wuneng

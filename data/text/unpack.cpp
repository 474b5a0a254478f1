#include "data/text/unpack.h"

#include <bzlib.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>

#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr int64_t kMost = 1 << 30;  // the libraries count in 32 bits

// zlib's and bzip2's streams have the same members.
template <class Stream, class Call>
Unpacker::Step step_of(Stream& z, std::string_view& packed, char* to, int64_t most, int end,
                       const Call& call) {
  const auto room = static_cast<unsigned>(std::min(most, kMost));
  z.next_in = reinterpret_cast<decltype(z.next_in)>(const_cast<char*>(packed.data()));
  z.avail_in = static_cast<unsigned>(packed.size());
  z.next_out = reinterpret_cast<decltype(z.next_out)>(to);
  z.avail_out = room;
  const int status = call();
  packed.remove_prefix(packed.size() - z.avail_in);
  return {room - z.avail_out, status == end};
}

class Gzip : public Unpacker {
 public:
  // + 16: gzip's header and checksum.
  Gzip() { require(inflateInit2(&z_, 15 + 16) == Z_OK, "zlib cannot be started"); }
  ~Gzip() override { inflateEnd(&z_); }
  const char* name() const override { return "gzip"; }
  bool padded() const override { return true; }
  void begin() override { WUNENG_ASSERT(inflateReset(&z_) == Z_OK); }
  Step step(std::string_view& packed, char* to, int64_t most) override {
    return step_of(z_, packed, to, most, Z_STREAM_END, [&] {
      const int status = inflate(&z_, Z_NO_FLUSH);
      require(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR, "{}",
              z_.msg ? z_.msg : "zlib gives no reason");
      return status;
    });
  }

 private:
  z_stream z_{};
};

class Bzip2 : public Unpacker {
 public:
  ~Bzip2() override { BZ2_bzDecompressEnd(&z_); }
  const char* name() const override { return "bzip2"; }
  void begin() override {
    BZ2_bzDecompressEnd(&z_);  // the library has no reset; without a member it does nothing
    z_ = {};
    require(BZ2_bzDecompressInit(&z_, 0, 0) == BZ_OK, "libbz2 cannot be started");
  }
  Step step(std::string_view& packed, char* to, int64_t most) override {
    return step_of(z_, packed, to, most, BZ_STREAM_END, [&] {
      const int status = BZ2_bzDecompress(&z_);
      require(status != BZ_DATA_ERROR_MAGIC, "no member begins here");
      require(status != BZ_DATA_ERROR, "a checksum or a code is wrong");
      require(status == BZ_OK || status == BZ_STREAM_END, "libbz2 ends with {}", status);
      return status;
    });
  }

 private:
  bz_stream z_{};
};

class Xz : public Unpacker {
 public:
  ~Xz() override { lzma_end(&z_); }
  const char* name() const override { return "xz"; }
  bool padded() const override { return true; }
  void begin() override {
    // Memory without a limit, as a file's author chose; .lzma files have no header that xz would know.
    require(lzma_auto_decoder(&z_, UINT64_MAX, 0) == LZMA_OK, "liblzma cannot be started");
  }
  Step step(std::string_view& packed, char* to, int64_t most) override {
    z_.next_in = reinterpret_cast<const uint8_t*>(packed.data());
    z_.avail_in = packed.size();
    z_.next_out = reinterpret_cast<uint8_t*>(to);
    z_.avail_out = static_cast<size_t>(most);
    const lzma_ret status = lzma_code(&z_, LZMA_RUN);
    require(status != LZMA_FORMAT_ERROR, "no stream begins here");
    require(status != LZMA_OPTIONS_ERROR, "an option or a filter that liblzma does not know");
    require(status != LZMA_DATA_ERROR, "a checksum or a code is wrong");
    require(status == LZMA_OK || status == LZMA_STREAM_END || status == LZMA_BUF_ERROR,
            "liblzma ends with {}", static_cast<int>(status));
    packed.remove_prefix(packed.size() - z_.avail_in);
    return {most - static_cast<int64_t>(z_.avail_out), status == LZMA_STREAM_END};
  }

 private:
  lzma_stream z_ = LZMA_STREAM_INIT;
};

class Zstd : public Unpacker {
 public:
  Zstd() : context_(ZSTD_createDCtx(), &ZSTD_freeDCtx) {
    require(context_ != nullptr, "zstd cannot be started");
    // Windows of up to 2 GiB (zstd --long=31); a frame takes the memory of its own.
    const ZSTD_bounds window = ZSTD_dParam_getBounds(ZSTD_d_windowLogMax);
    const size_t status = ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, window.upperBound);
    require(!ZSTD_isError(status), "zstd: {}", ZSTD_getErrorName(status));
  }
  const char* name() const override { return "zstd"; }
  void begin() override {}  // it begins a frame by itself, and takes those to skip for frames without content
  Step step(std::string_view& packed, char* to, int64_t most) override {
    ZSTD_outBuffer out{to, static_cast<size_t>(most), 0};
    ZSTD_inBuffer in{packed.data(), packed.size(), 0};
    const size_t left = ZSTD_decompressStream(context_.get(), &out, &in);
    require(!ZSTD_isError(left), "{}", ZSTD_getErrorName(left));
    packed.remove_prefix(in.pos);
    return {static_cast<int64_t>(out.pos), left == 0};
  }

 private:
  std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context_;
};

}  // namespace

std::unique_ptr<Unpacker> Unpacker::make(Packing packing) {
  switch (packing) {
    case Packing::gzip:
      return std::make_unique<Gzip>();
    case Packing::bzip2:
      return std::make_unique<Bzip2>();
    case Packing::xz:
      return std::make_unique<Xz>();
    case Packing::zstd:
      return std::make_unique<Zstd>();
    case Packing::none:
      break;
  }
  fail("unpack: expected a packing, found none");
}

}  // namespace wuneng

// Packs text as the programs gzip, bzip2, xz and zstd do.
#pragma once
#include <bzlib.h>
#include <gtest/gtest.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <string>

namespace wuneng {

inline std::string gzip(const std::string& text) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&z, text.size()) + 64, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

inline std::string bzip2(const std::string& text) {
  auto size = static_cast<unsigned>(text.size() + text.size() / 50 + 700);
  std::string out(size, '\0');
  EXPECT_EQ(BZ2_bzBuffToBuffCompress(out.data(), &size, const_cast<char*>(text.data()),
                                     static_cast<unsigned>(text.size()), 1, 0, 0),
            BZ_OK);
  out.resize(size);
  return out;
}

inline std::string xz(const std::string& text) {
  std::string out(lzma_stream_buffer_bound(text.size()), '\0');
  size_t size = 0;
  EXPECT_EQ(
      lzma_easy_buffer_encode(1, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const uint8_t*>(text.data()),
                              text.size(), reinterpret_cast<uint8_t*>(out.data()), &size, out.size()),
      LZMA_OK);
  out.resize(size);
  return out;
}

// The format before xz.
inline std::string lzma(const std::string& text) {
  lzma_options_lzma options;
  EXPECT_FALSE(lzma_lzma_preset(&options, 1));
  lzma_stream z = LZMA_STREAM_INIT;
  EXPECT_EQ(lzma_alone_encoder(&z, &options), LZMA_OK);
  std::string out(lzma_stream_buffer_bound(text.size()), '\0');
  z.next_in = reinterpret_cast<const uint8_t*>(text.data());
  z.avail_in = text.size();
  z.next_out = reinterpret_cast<uint8_t*>(out.data());
  z.avail_out = out.size();
  EXPECT_EQ(lzma_code(&z, LZMA_FINISH), LZMA_STREAM_END);
  out.resize(z.total_out);
  lzma_end(&z);
  return out;
}

// With a checksum, as the program writes it. `window`: its size's log, as by --long; 0: the usual one.
inline std::string zstd(const std::string& text, int window = 0) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  if (window > 0) ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  ZSTD_inBuffer in{text.data(), text.size(), 0};
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  // As from a pipe: the size of the content is unknown, so that the frame's window is the one asked for.
  if (window > 0) {
    ZSTD_compressStream2(context, &to, &in, ZSTD_e_flush);
    EXPECT_EQ(ZSTD_compressStream2(context, &to, &in, ZSTD_e_end), 0u);
    out.resize(to.pos);
  } else {
    out.resize(ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size()));
  }
  ZSTD_freeCCtx(context);
  return out;
}

// A zstd frame that readers skip; pzstd writes one before each frame.
inline std::string skippable(const std::string& content, char kind = '\x50') {
  const auto size = static_cast<uint32_t>(content.size());
  std::string out = {kind, '\x2a', '\x4d', '\x18'};
  for (int i = 0; i < 4; ++i) out += static_cast<char>(size >> (8 * i) & 0xff);
  return out + content;
}

}  // namespace wuneng

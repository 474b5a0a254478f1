#include "data/text/encoding.h"

#include <unicode/ucnv.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "runtime/error.h"

namespace wuneng {
namespace {

using namespace std::string_view_literals;

constexpr int64_t kConverted = 1 << 16;

struct ByteOrderMark {
  std::string_view bytes;
  const char* encoding;
};
// UTF-32's little-endian mark begins with UTF-16's.
constexpr ByteOrderMark kMarks[] = {{"\xef\xbb\xbf"sv, "UTF-8"},
                                    {"\xff\xfe\0\0"sv, "UTF-32LE"},
                                    {"\0\0\xfe\xff"sv, "UTF-32BE"},
                                    {"\xff\xfe"sv, "UTF-16LE"},
                                    {"\xfe\xff"sv, "UTF-16BE"}};

class Converter {
 public:
  explicit Converter(const std::string& name) {
    UErrorCode status = U_ZERO_ERROR;
    converter_.reset(ucnv_open(name.c_str(), &status));
    require(U_SUCCESS(status), "encoding: expected a name such as utf-16le, latin1 or gb18030, found \"{}\"",
            name);
    ucnv_setToUCallBack(get(), UCNV_TO_U_CALLBACK_STOP, nullptr, nullptr, nullptr, &status);
    ucnv_setFromUCallBack(get(), UCNV_FROM_U_CALLBACK_STOP, nullptr, nullptr, nullptr, &status);
    require(U_SUCCESS(status), "encoding {}: {}", name, u_errorName(status));
  }
  UConverter* get() const { return converter_.get(); }

 private:
  std::unique_ptr<UConverter, void (*)(UConverter*)> converter_{nullptr, &ucnv_close};
};

class ConvertedStream : public ByteStream {
 public:
  ConvertedStream(std::string path, std::unique_ptr<ByteStream> stream, const std::string& encoding)
      : path_(std::move(path)),
        encoding_(encoding),
        stream_(std::move(stream)),
        from_(encoding),
        to_("UTF-8"),
        buffer_(kConverted) {}

  int64_t read(char* to, int64_t most) override {
    char* out = to;
    while (out == to && !done_) {
      if (next_ == end_ && !flush_) refill();
      UErrorCode status = U_ZERO_ERROR;
      ucnv_convertEx(to_.get(), from_.get(), &out, to + most, &next_, end_, pivot_.data(), &pivot_source_,
                     &pivot_target_, pivot_.data() + pivot_.size(), false, flush_, &status);
      if (status == U_BUFFER_OVERFLOW_ERROR) break;
      require(U_SUCCESS(status), "{}: expected text in {}, found bytes that are none before byte {} ({})",
              path_, encoding_, read_ - (end_ - next_), u_errorName(status));
      done_ = flush_;
    }
    return out - to;
  }
  int64_t consumed() const override { return stream_->consumed(); }

 private:
  void refill() {
    const int64_t got = stream_->read(buffer_.data(), kConverted);
    next_ = buffer_.data();
    end_ = next_ + got;
    read_ += got;
    flush_ = got == 0;
  }

  std::string path_, encoding_;
  std::unique_ptr<ByteStream> stream_;
  Converter from_, to_;
  std::vector<char> buffer_;
  const char *next_ = nullptr, *end_ = nullptr;  // of buffer_, not yet converted
  int64_t read_ = 0;                             // bytes of the text before end_
  std::array<UChar, 4096> pivot_;                // UTF-16 between the two
  UChar *pivot_source_ = pivot_.data(), *pivot_target_ = pivot_.data();
  bool flush_ = false, done_ = false;  // no bytes are left; none in the converters
};

// Of the mark that `begin` begins with; nullptr: none.
const ByteOrderMark* mark_of(std::string_view begin) {
  const auto* at = std::find_if(std::begin(kMarks), std::end(kMarks),
                                [&](const ByteOrderMark& m) { return begin.starts_with(m.bytes); });
  return at == std::end(kMarks) ? nullptr : at;
}

bool same_encoding(const std::string& a, const char* b) { return ucnv_compareNames(a.c_str(), b) == 0; }

}  // namespace

bool has_wide_mark(std::string_view begin) {
  const ByteOrderMark* mark = mark_of(begin);
  return mark && mark != std::begin(kMarks);
}

void check_encoding(const std::string& encoding) {
  if (!encoding.empty()) Converter{encoding};
}

std::unique_ptr<PeekStream> open_text(const std::string& path, const std::string& encoding) {
  std::unique_ptr<PeekStream> stream = open_unpacked(path);
  std::string found = encoding;
  if (const ByteOrderMark* mark = mark_of(stream->peek(4))) {
    std::array<char, 4> ignored;
    for (auto left = static_cast<int64_t>(mark->bytes.size()); left > 0;)
      left -= stream->read(ignored.data(), left);
    found = mark->encoding;
  }
  // Without a mark their byte order is anybody's guess.
  for (const char* name : {"UTF-16", "UTF-32"})
    require(!same_encoding(found, name), "{}: expected a byte order mark, found none: name {}LE or {}BE",
            path, name, name);
  if (found.empty() || same_encoding(found, "UTF-8")) return stream;
  return std::make_unique<PeekStream>(std::make_unique<ConvertedStream>(path, std::move(stream), found));
}

}  // namespace wuneng

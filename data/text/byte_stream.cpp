#include "data/text/byte_stream.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "data/text/unpack.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr int64_t kPiece = 1 << 18;

class FileStream : public ByteStream {
 public:
  explicit FileStream(const std::string& path)
      : path_(path), file_(std::fopen(path.c_str(), "rb"), &std::fclose) {
    require(file_ != nullptr, "{}: cannot be read: {}", path, std::strerror(errno));
  }
  int64_t read(char* to, int64_t most) override {
    errno = 0;
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

class UnpackedStream : public ByteStream {
 public:
  UnpackedStream(std::string path, std::unique_ptr<ByteStream> packed, Packing packing)
      : path_(std::move(path)),
        file_(std::move(packed)),
        unpacker_(Unpacker::make(packing)),
        buffer_(kPiece) {}

  int64_t read(char* to, int64_t most) override {
    while (true) {
      const bool at_end = next_.empty() && !refill();
      if (!inside_) {
        if (at_end) return 0;
        if (!begin()) continue;
      }
      const Unpacker::Step step = advance(to, most);
      inside_ = !step.ended;
      if (step.written > 0) return step.written;
      // At the end of the file the unpacker may still hold bytes that did not fit into the last output.
      require(!inside_ || !at_end,
              "{}: {}: expected more after byte {}, found the end: the file is cut short", path_,
              unpacker_->name(), consumed());
    }
  }
  int64_t consumed() const override { return file_->consumed(); }

 private:
  bool refill() {
    const int64_t got = file_->read(buffer_.data(), kPiece);
    next_ = {buffer_.data(), static_cast<size_t>(got)};
    return got > 0;
  }
  // Before a member: false if all there is are zeros that fill up the file.
  bool begin() {
    if (any_ && unpacker_->padded())
      next_.remove_prefix(std::min(next_.find_first_not_of('\0'), next_.size()));
    if (next_.empty()) return false;
    unpacker_->begin();
    return any_ = true;
  }
  Unpacker::Step advance(char* to, int64_t most) {
    try {
      return unpacker_->step(next_, to, most);
    } catch (const Error& e) {
      fail("{}: {}: damaged before byte {}: {}", path_, unpacker_->name(),
           consumed() - static_cast<int64_t>(next_.size()), e.what());
    }
  }

  std::string path_;
  std::unique_ptr<ByteStream> file_;
  std::unique_ptr<Unpacker> unpacker_;
  std::vector<char> buffer_;
  std::string_view next_;              // of buffer_, not yet unpacked
  bool inside_ = false, any_ = false;  // inside a member, after the first one's begin
};

void refuse(const std::string& path, const char* inside, const FileKind& kind) {
  fail("{}: expected text{}, found {}: {}", path, inside, kind.name, kind.remedy);
}

}  // namespace

std::unique_ptr<ByteStream> ByteStream::open(const std::string& path) {
  return std::make_unique<FileStream>(path);
}

std::string_view PeekStream::peek(int64_t bytes) {
  ahead_.erase(0, at_);
  at_ = 0;
  const auto wanted = static_cast<size_t>(bytes);
  while (ahead_.size() < wanted) {
    const size_t before = ahead_.size();
    ahead_.resize(wanted);
    const int64_t got = stream_->read(ahead_.data() + before, static_cast<int64_t>(wanted - before));
    ahead_.resize(before + static_cast<size_t>(got));
    if (got == 0) break;
  }
  return std::string_view(ahead_).substr(0, wanted);
}

int64_t PeekStream::read(char* to, int64_t most) {
  if (at_ == ahead_.size()) return stream_->read(to, most);
  const size_t count = std::min(ahead_.size() - at_, static_cast<size_t>(most));
  ahead_.copy(to, count, at_);
  at_ += count;
  return static_cast<int64_t>(count);
}

std::unique_ptr<PeekStream> open_unpacked(const std::string& path) {
  auto file = std::make_unique<PeekStream>(ByteStream::open(path));
  const FileKind *const found = kind_of_bytes(file->peek(kKindBytes)), *const said = kind_of_name(path);
  const Packing packing = found ? found->packing : Packing::none;
  if (found && packing == Packing::none) refuse(path, "", *found);
  require(!said || said->packing == Packing::none || said->packing == packing,
          "{}: expected {} as its name says, found {}", path, said ? said->name : "",
          found ? found->name : "other first bytes");
  if (!found) return file;
  auto content =
      std::make_unique<PeekStream>(std::make_unique<UnpackedStream>(path, std::move(file), packing));
  if (const FileKind* inner = kind_of_bytes(content->peek(kKindBytes)))
    refuse(path, fmt::format(" in {}", found->name).c_str(),
           inner->packing == Packing::none ? *inner : FileKind{inner->name, Packing::none, "unpack it once"});
  return content;
}

}  // namespace wuneng

#include "runtime/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr int64_t kBufferBytes = 1 << 20;
constexpr int64_t kLargestCall = 64 << 20;  // Linux moves at most 2 GiB a call

// The reason must be read before another call changes errno, so it is an argument.
[[noreturn]] void fail_with(int error, const std::string& path, const char* what) {
  fail("{}: cannot be {}: {}", path, what, std::strerror(error));
}

void check(bool good, const std::string& path, const char* what) {
  const int error = errno;
  if (!good) fail_with(error, path, what);
}

}  // namespace

FileDescriptor::FileDescriptor(std::string path, int flags, int mode)
    : path_(std::move(path)), fd_(::open(path_.c_str(), flags | O_CLOEXEC, mode)) {
  check(fd_ >= 0, path_, flags & O_CREAT ? "created" : "opened");
}

std::optional<FileDescriptor> FileDescriptor::create_new(const std::string& path) {
  FileDescriptor file(path);
  file.fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file.fd_ < 0 && errno == EEXIST) return std::nullopt;
  check(file.fd_ >= 0, path, "created");
  return file;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

void FileDescriptor::close() {
  // Linux releases the descriptor even where close() fails.
  check(::close(std::exchange(fd_, -1)) == 0, path_, "closed");
}

int64_t FileDescriptor::size() const {
  struct stat info {};
  check(::fstat(fd_, &info) == 0, path_, "inspected");
  return info.st_size;
}

void FileDescriptor::read(int64_t offset, void* into, int64_t bytes) const {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = ::pread(fd_, static_cast<char*>(into) + done,
                              static_cast<size_t>(std::min(bytes - done, kLargestCall)), offset + done);
    if (n < 0 && errno == EINTR) continue;
    check(n >= 0, path_, "read");
    require(n > 0, "{}: expected {} bytes at {}, found {}: the file is shorter", path_, bytes, offset, done);
    done += n;
  }
}

void FileDescriptor::write(int64_t offset, const void* from, int64_t bytes) const {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = ::pwrite(fd_, static_cast<const char*>(from) + done,
                               static_cast<size_t>(std::min(bytes - done, kLargestCall)), offset + done);
    if (n < 0 && errno == EINTR) continue;
    check(n >= 0, path_, "written");
    if (n == 0) fail_with(ENOSPC, path_, "written");
    done += n;
  }
}

void FileDescriptor::sync() const { check(::fsync(fd_) == 0, path_, "synced"); }

std::vector<ByteRange> complement(std::vector<ByteRange> ranges, int64_t size) {
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  std::vector<ByteRange> out;
  int64_t at = 0;
  for (const ByteRange& r : ranges) {
    if (r.begin > at) out.push_back({at, r.begin - at});
    at = std::max(at, r.begin + r.bytes);
  }
  if (size > at) out.push_back({at, size - at});
  return out;
}

void sync_path(const std::string& path) {
  FileDescriptor file(path, O_RDONLY);
  file.sync();
  file.close();
}

std::string parent_directory(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

void rename_durably(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) {
    const int error = errno;
    fail("{}: cannot be renamed to {}: {}", from, to, std::strerror(error));
  }
  sync_path(parent_directory(to));
}

OutputFile::OutputFile(const std::string& path, int mode)
    : path_(path), file_(path + ".partial", O_RDWR | O_CREAT | O_TRUNC, mode) {}

OutputFile::~OutputFile() {
  if (!committed_) ::unlink(file_.path().c_str());  // what is left of a failed write; it reports itself
}

void OutputFile::append(const void* from, int64_t bytes) {
  if (static_cast<int64_t>(buffer_.size()) + bytes > kBufferBytes) flush();
  if (bytes > kBufferBytes) {
    file_.write(end_, from, bytes);
    end_ += bytes;
  } else {
    buffer_.append(static_cast<const char*>(from), static_cast<size_t>(bytes));
  }
}

void OutputFile::flush() {
  file_.write(end_, buffer_.data(), static_cast<int64_t>(buffer_.size()));
  end_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

void OutputFile::write_at(int64_t offset, const void* from, int64_t bytes) {
  file_.write(offset, from, bytes);
  end_ = std::max(end_, offset + bytes);
}

void OutputFile::start_writeback(int64_t offset, int64_t bytes) {
  // A hint: file systems without it (EINVAL, ESPIPE) write at the sync, which reports what fails.
  ::sync_file_range(file_.fd(), offset, bytes, SYNC_FILE_RANGE_WRITE);
}

void OutputFile::close() {
  flush();
  const int64_t found = file_.size();
  require(found == end_, "{}: expected {} bytes after writing, found {}", file_.path(), end_, found);
  file_.sync();
  file_.close();
  closed_ = true;
}

void OutputFile::commit() {
  if (!closed_) close();
  rename_durably(file_.path(), path_);
  committed_ = true;
}

void write_file_durably(const std::string& path, const std::string& content) {
  OutputFile out(path);
  out.append(content.data(), static_cast<int64_t>(content.size()));
  out.commit();
}

bool create_file_durably(const std::string& path, const std::string& content) {
  std::optional<FileDescriptor> file;  // of a name that no other process has
  for (int number = 0; !file; ++number) file = FileDescriptor::create_new(fmt::format("{}.{}", path, number));
  file->write(0, content.data(), static_cast<int64_t>(content.size()));
  file->sync();
  const std::string partial = file->path();
  file->close();
  const bool made = ::link(partial.c_str(), path.c_str()) == 0;
  const int error = errno;
  check(::unlink(partial.c_str()) == 0, partial, "removed");
  if (!made && error != EEXIST) fail_with(error, path, "created");
  sync_path(parent_directory(path));
  return made;
}

std::string read_file(const std::string& path) {
  const FileDescriptor file(path, O_RDONLY);
  std::string out;
  for (;;) {  // not pread: a pipe is read too
    const size_t before = out.size();
    out.resize(before + kBufferBytes);
    const ssize_t n = ::read(file.fd(), out.data() + before, kBufferBytes);
    const int error = errno;
    out.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0 && error == EINTR) continue;
    if (n < 0) fail_with(error, path, "read");
    if (n == 0) return out;
  }
}

MappedFile MappedFile::open(const std::string& path) {
  const FileDescriptor file(path, O_RDONLY);
  struct stat info {};
  check(::fstat(file.fd(), &info) == 0, path, "inspected");
  require(S_ISREG(info.st_mode), "{}: not a regular file", path);
  MappedFile out;
  out.size = info.st_size;
  if (out.size == 0) return out;
  void* memory = ::mmap(nullptr, out.size, PROT_READ, MAP_PRIVATE, file.fd(), 0);
  check(memory != MAP_FAILED, path, "mapped");
  out.memory = {memory, [size = out.size](void* p) { ::munmap(p, size); }};
  out.data = static_cast<const char*>(memory);
  return out;
}

}  // namespace wuneng

// Files: checked reading and writing with POSIX calls, durable replacement, memory mapping. Every call's
// status is looked at; messages name the file and the system's reason.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace wuneng {

struct ByteRange {
  int64_t begin, bytes;
};
// The ranges of [0, size) that are in none of `ranges`, which may have any order but not overlap.
std::vector<ByteRange> complement(std::vector<ByteRange> ranges, int64_t size);

// Syncs a file, or a directory's entries, to the disk.
void sync_path(const std::string& path);
// The directory that holds `path`.
std::string parent_directory(const std::string& path);
// Renames a file or a directory and syncs the directory that holds `to`; `to` is replaced if it is a file.
void rename_durably(const std::string& from, const std::string& to);
// Replaces path atomically: writes PATH.partial, syncs it, renames it over path, syncs the directory.
void write_file_durably(const std::string& path, const std::string& content);
// Makes a file that nobody sees before it is complete and on the disk; false where there is one, which stays,
// also where another process makes it at the same time.
bool create_file_durably(const std::string& path, const std::string& content);
std::string read_file(const std::string& path);

// An open file; closed without a check unless close() was called, so a writer calls it.
class FileDescriptor {
 public:
  FileDescriptor(std::string path, int flags, int mode = 0666);  // those of open(2)
  // A new file to write, made by no other process; nothing where there is one.
  static std::optional<FileDescriptor> create_new(const std::string& path);
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;

  const std::string& path() const { return path_; }
  int fd() const { return fd_; }
  int64_t size() const;
  void read(int64_t offset, void* into, int64_t bytes) const;  // throws where the file ends before
  void write(int64_t offset, const void* from, int64_t bytes) const;
  void sync() const;
  void close();  // throws where the system reports a late error of a write

 private:
  FileDescriptor(std::string path) : path_(std::move(path)) {}

  std::string path_;
  int fd_ = -1;
};

// A file that appears under its name when it is complete: it is written as PATH.partial, and commit() syncs,
// closes and renames it. Without commit() the partial file is removed.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path, int mode = 0666);
  ~OutputFile();

  const std::string& path() const { return path_; }
  void append(const void* from, int64_t bytes);                    // after all bytes so far; buffered
  void write_at(int64_t offset, const void* from, int64_t bytes);  // not to be mixed with append
  int64_t size() const { return end_; }
  // Begins to write the bytes of a range to the disk, without waiting.
  void start_writeback(int64_t offset, int64_t bytes);
  void flush();
  const FileDescriptor& file() const { return file_; }  // for reading back what was flushed
  void close();                                         // syncs and closes it; it keeps the name PATH.partial
  void commit();                                        // closes it, if it is open, and renames it

 private:
  std::string path_;
  FileDescriptor file_;
  std::string buffer_;
  int64_t end_ = 0;
  bool closed_ = false, committed_ = false;
};

// A file mapped for reading; unmapped when the last user is gone.
struct MappedFile {
  std::shared_ptr<void> memory;
  const char* data = nullptr;
  int64_t size = 0;
  static MappedFile open(const std::string& path);
};

}  // namespace wuneng

// Durable and memory-mapped files.
#pragma once
#include <memory>
#include <string>

namespace wuneng {

// Syncs a file, or a directory's entries, to the disk.
void sync_path(const std::string& path);
// Replaces path atomically: writes a temporary file next to it, syncs, renames it over path, syncs the
// directory.
void write_file_durably(const std::string& path, const std::string& content);
std::string read_file(const std::string& path);

// A file mapped for reading; unmapped when the last user is gone.
struct MappedFile {
  std::shared_ptr<void> memory;
  const char* data = nullptr;
  int64_t size = 0;
  static MappedFile open(const std::string& path);
};

}  // namespace wuneng

#include "runtime/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "runtime/error.h"

namespace wuneng {
namespace {

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : fd(::open(path.c_str(), flags | O_CLOEXEC)) {
    require(fd >= 0, "{}: cannot be opened: {}", path, std::strerror(errno));
  }
  ~Descriptor() { ::close(fd); }
  const int fd;
};

}  // namespace

void sync_path(const std::string& path) {
  const Descriptor file(path, O_RDONLY);
  require(::fsync(file.fd) == 0, "{}: cannot be synced: {}", path, std::strerror(errno));
}

void write_file_durably(const std::string& path, const std::string& content) {
  const std::string partial = path + ".partial";
  {
    std::ofstream out(partial, std::ios::binary | std::ios::trunc);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    out.flush();
    require(out.good(), "{}: cannot be written: {}", partial, std::strerror(errno));
  }
  sync_path(partial);
  std::filesystem::rename(partial, path);
  const auto parent = std::filesystem::path(path).parent_path();
  sync_path(parent.empty() ? "." : parent.string());
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  require(in.good(), "{}: cannot be read: {}", path, std::strerror(errno));
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

MappedFile MappedFile::open(const std::string& path) {
  const Descriptor file(path, O_RDONLY);
  struct stat info {};
  require(::fstat(file.fd, &info) == 0 && S_ISREG(info.st_mode), "{}: not a regular file", path);
  MappedFile out;
  out.size = info.st_size;
  if (out.size == 0) return out;
  void* memory = ::mmap(nullptr, out.size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  require(memory != MAP_FAILED, "{}: cannot be mapped: {}", path, std::strerror(errno));
  out.memory = {memory, [size = out.size](void* p) { ::munmap(p, size); }};
  out.data = static_cast<const char*>(memory);
  return out;
}

}  // namespace wuneng

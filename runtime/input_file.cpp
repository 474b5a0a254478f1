#include "runtime/input_file.h"

#include <filesystem>

#include "runtime/error.h"
#include "runtime/file.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

const char* name_of(fs::file_type type) {
  switch (type) {
    case fs::file_type::directory:
      return "a directory";
    case fs::file_type::fifo:
      return "a pipe";
    case fs::file_type::socket:
      return "a socket";
    case fs::file_type::block:
    case fs::file_type::character:
      return "a device";
    default:
      return "something else";
  }
}

}  // namespace

std::string read_input_file(const std::string& path, const std::string& expected, int64_t most) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  require(status.type() != fs::file_type::not_found, "{}: cannot be read: expected {}, found nothing there",
          path, expected);
  require(status.type() != fs::file_type::none, "{}: cannot be read: expected {}: {}", path, expected,
          error.message());
  require(fs::is_regular_file(status), "{}: cannot be read: expected {}, found {}", path, expected,
          name_of(status.type()));
  const uintmax_t size = fs::file_size(path, error);
  require(!error, "{}: cannot be read: expected {}: {}", path, expected, error.message());
  require(size > 0, "{}: expected {}, found an empty file", path, expected);
  require(size <= static_cast<uintmax_t>(most), "{}: expected {} of at most {} bytes, found {}", path,
          expected, most, size);
  return read_file(path);
}

}  // namespace wuneng

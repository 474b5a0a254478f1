// What the fuzz targets share. A target gives a parser a file of arbitrary bytes; the parser may take it or
// throw an Error that names the file. Anything else (another exception, a report of a sanitizer, a hang) ends
// the run with the input kept beside the build.
#pragma once
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "runtime/error.h"

namespace wuneng::fuzz {

// A directory in memory where there is one, for as long as the program runs.
class Directory {
 public:
  Directory() {
    const std::filesystem::path memory = "/dev/shm";
    const auto parent = std::filesystem::exists(memory) ? memory : std::filesystem::temp_directory_path();
    std::string name = (parent / "wuneng-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  const std::string& path() const { return path_; }
  std::string write(const std::string& name, std::string_view content) const {
    const std::string file = path_ + "/" + name;
    std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
    return file;
  }

 private:
  std::string path_;
};

// Runs a parser on files of `directory`; whether it took them.
template <class Parser>
bool accepted(const Directory& directory, const Parser& parser) {
  try {
    parser();
    return true;
  } catch (const Error& e) {
    if (std::string_view(e.what()).find(directory.path()) != std::string_view::npos) return false;
    std::fprintf(stderr, "an error that does not name the file: %s\n", e.what());
    std::abort();
  }
}

// Some first bytes of an input choose what it is; the rest is the content. 0 where the input has ended.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}
  uint8_t byte() {
    if (rest_.empty()) return 0;
    const uint8_t first = static_cast<uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    return first;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

}  // namespace wuneng::fuzz

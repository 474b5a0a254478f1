#include "data/text/files.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>

#include "runtime/error.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> expand_glob(const std::string& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  require(status == 0 || status == GLOB_NOMATCH, "data path {}: cannot be searched (glob returned {})",
          pattern, status);
  return paths;
}

}  // namespace

std::vector<DataFile> find_files(const std::vector<std::string>& paths,
                                 const std::vector<std::string>& endings) {
  std::vector<DataFile> files;
  const auto wanted = [&](const fs::path& p) {
    return endings.empty() || std::any_of(endings.begin(), endings.end(), [&](const std::string& ending) {
             return p.filename().string().ends_with(ending);
           });
  };
  const auto add = [&](const fs::path& p, const fs::path& below) {
    files.push_back({p.lexically_normal().string(), p.lexically_relative(below).generic_string(),
                     static_cast<int64_t>(fs::file_size(p))});
  };
  const auto add_directory = [&](const fs::path& directory, const fs::path& below) {
    for (const auto& entry : fs::recursive_directory_iterator(directory))
      if (entry.is_regular_file() && wanted(entry.path())) add(entry.path(), below);
  };
  for (const std::string& entry : paths) {
    const size_t before = files.size();
    try {
      if (fs::is_directory(entry)) {
        add_directory(entry, entry);
      } else if (fs::is_regular_file(entry)) {
        add(entry, fs::path(entry).parent_path());
      } else {
        // Names are relative to the last directory without a wildcard.
        const std::string fixed = entry.substr(0, entry.find_first_of("*?["));
        const fs::path below = fs::path(fixed).parent_path();
        for (const std::string& match : expand_glob(entry)) {
          if (fs::is_directory(match))
            add_directory(match, below);
          else if (wanted(match))
            add(match, below);
        }
      }
    } catch (const fs::filesystem_error& e) {
      fail("data path {}: {}", entry, e.what());
    }
    require(files.size() > before, "data path {}: expected at least one file{}, found none", entry,
            endings.empty() ? "" : fmt::format(" ending in {}", fmt::join(endings, " or ")));
  }
  // Stable: the first entry that finds a file determines its name.
  std::stable_sort(files.begin(), files.end(),
                   [](const DataFile& a, const DataFile& b) { return a.path < b.path; });
  const auto same = [](const DataFile& a, const DataFile& b) { return a.path == b.path; };
  files.erase(std::unique(files.begin(), files.end(), same), files.end());
  return files;
}

}  // namespace wuneng

#include "data/text/files.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <unordered_set>

#include "data/text/file_kind.h"
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

bool is_hidden(const std::string& name, bool directory) {
  return name.starts_with('.') || (directory && name.starts_with("__"));
}

// Files that describe a data set and are no part of it.
bool is_card(const std::string& path) {
  const std::string name = fs::path(path).filename().string();
  const auto named = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; });
  };
  return named({"README.md", "README.txt", "README", "LICENSE", "LICENSE.md", "LICENSE.txt", "CACHEDIR.TAG",
                "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"});
}

std::vector<fs::directory_entry> sorted_entries(const fs::path& directory) {
  std::vector<fs::directory_entry> entries;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) entries.push_back(entry);
  std::sort(entries.begin(), entries.end());
  return entries;
}

class Search {
 public:
  explicit Search(const std::vector<std::string>& endings) : endings_(endings) {}

  // `below`: what names are relative to.
  void directory(const fs::path& path, const fs::path& below) {
    const auto before = static_cast<std::ptrdiff_t>(found_.files.size());
    directories_.clear();
    walk(path, below);
    const auto begin = found_.files.begin() + before, end = found_.files.end();
    const bool describes = endings_.empty() && std::any_of(begin, end, [](const DataFile& file) {
                             return is_json_name(file.path) && !is_card(file.path);
                           });
    if (!describes) return;
    const auto cards = std::stable_partition(begin, end, [](const DataFile& f) { return !is_card(f.path); });
    for (auto card = cards; card != end; ++card) found_.left_out.push_back(card->path);
    found_.files.erase(cards, end);
  }

  void file(const fs::path& path, const fs::path& below) { add(path, below, fs::canonical(path)); }

  bool wanted(const fs::path& path) const {
    return endings_.empty() || std::any_of(endings_.begin(), endings_.end(), [&](const std::string& ending) {
             return has_ending(path.native(), ending);
           });
  }

  FoundFiles& found() { return found_; }
  int64_t matches() const { return matches_; }  // files found, also again

 private:
  // `real`: the path without links.
  void add(const fs::path& path, const fs::path& below, const fs::path& real) {
    ++matches_;
    if (!files_.insert(real.native()).second) return;
    found_.files.push_back({path.lexically_normal().string(), path.lexically_relative(below).generic_string(),
                            static_cast<int64_t>(fs::file_size(path))});
  }

  void walk(const fs::path& path, const fs::path& below) {
    const fs::path real = fs::canonical(path);
    // A link may lead to a directory above it.
    if (!directories_.insert(real.native()).second) return;
    if (fs::is_directory(path / "blobs") && fs::is_directory(path / "snapshots"))
      return walk(only_snapshot(path / "snapshots"), below);
    for (const fs::directory_entry& entry : sorted_entries(path)) {
      std::error_code error;
      const fs::file_status status = entry.status(error);
      const fs::path name = entry.path().filename();
      if (is_hidden(name.native(), fs::is_directory(status))) {
        found_.left_out.push_back(entry.path().string());
      } else if (fs::is_directory(status)) {
        walk(entry.path(), below);
      } else if (wanted(entry.path())) {
        require(fs::is_regular_file(status), "data path {}: expected a file, found {}", entry.path().string(),
                fs::exists(status)   ? "a device, a socket or a pipe"
                : entry.is_symlink() ? "a link that leads nowhere"
                                     : "one that cannot be read: " + error.message());
        add(entry.path(), below, entry.is_symlink() ? fs::canonical(entry.path()) : real / name);
      }
    }
  }

  static fs::path only_snapshot(const fs::path& snapshots) {
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : sorted_entries(snapshots)) names.push_back(entry.path().string());
    require(
        names.size() == 1,
        "data path {}: a cache of Hugging Face's hub: expected one snapshot, found {} (name one of them: {})",
        snapshots.parent_path().string(), names.size(), fmt::join(names, ", "));
    return names[0];
  }

  const std::vector<std::string>& endings_;
  FoundFiles found_;
  std::unordered_set<std::string> files_, directories_;  // without links
  int64_t matches_ = 0;
};

void search(Search& found, const std::string& entry) {
  if (fs::is_directory(entry)) return found.directory(entry, entry);
  if (fs::is_regular_file(entry)) return found.file(entry, fs::path(entry).parent_path());
  require(!fs::exists(entry),
          "data path {}: expected a file or a directory, found a device, a socket or a pipe", entry);
  // Names are relative to the last directory without a wildcard.
  const std::string fixed = entry.substr(0, entry.find_first_of("*?["));
  const fs::path below = fs::path(fixed).parent_path();
  for (const std::string& match : expand_glob(entry)) {
    if (fs::is_directory(match))
      found.directory(match, below);
    else if (found.wanted(match))
      found.file(match, below);
  }
}

}  // namespace

FoundFiles find_files(const std::vector<std::string>& paths, const std::vector<std::string>& endings) {
  Search found(endings);
  for (const std::string& entry : paths) {
    const int64_t before = found.matches();
    const size_t left_out_before = found.found().left_out.size();
    try {
      search(found, entry);
    } catch (const fs::filesystem_error& e) {
      fail("data path {}: {}", entry, e.what());
    }
    const size_t left_out = found.found().left_out.size() - left_out_before;
    require(found.matches() > before, "data path {}: expected at least one file{}, found none{}", entry,
            endings.empty() ? "" : fmt::format(" ending in {}", fmt::join(endings, " or ")),
            left_out == 0 ? "" : fmt::format(" that is not hidden ({} are)", left_out));
  }
  std::vector<DataFile>& files = found.found().files;
  std::sort(files.begin(), files.end(), [](const DataFile& a, const DataFile& b) { return a.path < b.path; });
  return std::move(found.found());
}

std::string describe_left_out(const std::vector<std::string>& left_out) {
  constexpr size_t kShown = 3;
  if (left_out.empty()) return "";
  const auto shown = left_out.begin() + static_cast<std::ptrdiff_t>(std::min(left_out.size(), kShown));
  const std::string more =
      left_out.size() > kShown ? fmt::format(" and {} more", left_out.size() - kShown) : std::string();
  return fmt::format("left out, hidden or no data: {}{}", fmt::join(left_out.begin(), shown, ", "), more);
}

}  // namespace wuneng

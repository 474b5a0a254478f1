#include "runtime/checkpoint/root.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "runtime/file.h"
#include "runtime/hash.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;
constexpr const char *kPartial = ".partial", *kReplaced = ".replaced", *kRemoving = ".removing";

// "step_00000120", without an ending.
bool is_checkpoint_name(const std::string& name) {
  return name.starts_with("step_") && name.size() > 5 && name.size() < 24 &&
         name.find_first_not_of("0123456789", 5) == std::string::npos;
}

std::string without_ending(const std::string& name, const std::string& ending) {
  return name.ends_with(ending) ? name.substr(0, name.size() - ending.size()) : name;
}

std::vector<std::string> directories(const std::string& root) {
  std::vector<std::string> out;
  if (!fs::is_directory(root)) return out;
  for (const auto& entry : fs::directory_iterator(root))
    if (entry.is_directory()) out.push_back(entry.path().filename().string());
  std::sort(out.begin(), out.end());
  return out;
}

// The names of complete checkpoints. One that was being replaced counts where its successor has not come.
std::vector<std::string> complete_names(const std::string& root) {
  std::vector<std::string> out;
  for (const std::string& name : directories(root))
    if (is_checkpoint_name(name) ||
        (name.ends_with(kReplaced) && is_checkpoint_name(without_ending(name, kReplaced)) &&
         !fs::exists(root + "/" + without_ending(name, kReplaced))))
      out.push_back(name);
  return out;
}

// Under a name that no reader takes, so that a removal that is cut short leaves no half checkpoint.
void remove_checkpoint(const std::string& root, const std::string& name) {
  const std::string removing = root + "/" + name + kRemoving;
  fs::remove_all(removing);
  rename_durably(root + "/" + name, removing);
  fs::remove_all(removing);
}

void write_latest(const std::string& root, const std::string& name, const Manifest& manifest) {
  write_file_durably(root + "/latest", name + "\n" + hash_text(manifest.hash) + "\n");
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("step_{:08}", step); }

Manifest read_manifest(const std::string& directory) {
  const std::string path = directory + "/manifest.json";
  Manifest m = Manifest::parse(read_file(path), path);
  const std::string name =
      without_ending(fs::weakly_canonical(fs::absolute(directory)).filename().string(), kReplaced);
  if (is_checkpoint_name(name))
    require(name == checkpoint_name(m.step), "{}: expected the checkpoint of step {}, found that of step {}",
            path, std::stoll(name.substr(5)), m.step);
  return m;
}

bool has_checkpoint(const std::string& path) {
  return fs::exists(path + "/manifest.json") || fs::exists(path + "/latest") || !complete_names(path).empty();
}

CheckpointList list_checkpoints(const std::string& root) {
  CheckpointList out;
  for (const std::string& name : complete_names(root)) {
    try {
      out.entries.push_back({name, read_manifest(root + "/" + name)});
    } catch (const std::exception& e) {
      out.problems.push_back(fmt::format("checkpoint {} cannot be used: {}", name, e.what()));
    }
  }
  std::stable_sort(out.entries.begin(), out.entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.manifest.save, a.manifest.step) > std::pair(b.manifest.save, b.manifest.step);
  });
  const std::string path = root + "/latest";
  if (!fs::exists(path)) return out;
  try {
    std::istringstream text(read_file(path));
    std::string name, hash, rest;
    text >> name >> hash;  // without a checksum: written by hand or by an older version
    const auto at = std::find_if(out.entries.begin(), out.entries.end(), [&](const auto& entry) {
      return without_ending(entry.name, kReplaced) == name &&
             (hash.empty() || hash == hash_text(entry.manifest.hash));
    });
    require(!(text >> rest) && at != out.entries.end(),
            "{}: expected the name of a complete checkpoint there and the checksum of its manifest, found "
            "'{}'{}",
            path, name, hash.empty() ? "" : " " + hash);
    std::rotate(out.entries.begin(), at, at + 1);
  } catch (const std::exception& e) {
    out.problems.emplace_back(e.what());
  }
  return out;
}

void clean_checkpoints(const std::string& root) {
  for (const std::string& name : directories(root)) {
    const std::string path = root + "/" + name, replaced = without_ending(path, kReplaced);
    if (name.ends_with(kReplaced) && !fs::exists(replaced))
      rename_durably(path, replaced);
    else if (name.ends_with(kPartial) || name.ends_with(kReplaced) || name.ends_with(kRemoving))
      fs::remove_all(path);
  }
}

void commit_checkpoint(const std::string& root, const std::string& partial, const std::string& name,
                       const Manifest& manifest) {
  const std::string final = root + "/" + name, replaced = final + kReplaced;
  fs::remove_all(replaced);
  if (fs::exists(final)) rename_durably(final, replaced);
  sync_path(root + "/" + partial);
  rename_durably(root + "/" + partial, final);
  write_latest(root, name, manifest);
  fs::remove_all(replaced);
}

void prune_checkpoints(const std::string& root, int64_t keep) {
  if (keep == 0) return;
  std::vector<std::pair<int64_t, std::string>> saves;
  for (const CheckpointList::Entry& entry : list_checkpoints(root).entries)
    saves.emplace_back(entry.manifest.save, entry.name);
  std::sort(saves.rbegin(), saves.rend());
  for (size_t i = keep; i < saves.size(); ++i) remove_checkpoint(root, saves[i].second);
}

}  // namespace wuneng

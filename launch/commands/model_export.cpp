#include "launch/commands/model_export.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "model/export/transformers_files.h"
#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/input_file.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "config.json";
constexpr std::array kTokenizerFiles = {
    "tokenizer.json",    "tokenizer_config.json",   "tokenizer.model",     "vocab.json",        "merges.txt",
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"};

bool is_tokenizer_file(const std::string& name) {
  return std::find(kTokenizerFiles.begin(), kTokenizerFiles.end(), name) != kTokenizerFiles.end();
}

bool is_our_weights(const std::string& name) {  // model-00001-of-00002.safetensors
  return name == "model.safetensors" || name == "model.safetensors.index.json" ||
         (name.starts_with("model-") && name.ends_with(".safetensors") &&
          name.find("-of-") != std::string::npos);
}

// A file of a model directory: part of an export, which the next one replaces.
bool is_exported(const std::string& name) {
  return name == kConfig || name == "generation_config.json" || is_our_weights(name) ||
         is_tokenizer_file(name) || transformers_files().contains(name);
}

// Weights, or a part of them, that an export does not write, and that other programs may read in its place.
bool is_other_weights(const std::string& name) {
  if (is_our_weights(name)) return false;
  for (const char* begin : {"pytorch_model", "tf_model", "flax_model", "adapter_", "consolidated."})
    if (name.starts_with(begin)) return true;
  return name.ends_with(".safetensors") || name.ends_with(".gguf");
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

void require_replaceable(const std::string& directory, const std::string& folder) {
  const std::vector<std::string> names = names_in(directory);
  // An export that was ended early has the folder, but may have lost the config.json.
  const bool is_export = fs::exists(directory + "/" + kConfig) || fs::exists(folder);
  for (const std::string& name : names) {
    const std::string path = directory + "/" + name;
    require(!is_other_weights(name), "{}: is not part of the model to write: expected a directory without it",
            path);
    require(!is_exported(name) || is_export,
            "{}: would be taken for a part of the model to write, and there is no {} beside it: expected an "
            "empty "
            "directory, or one that holds a model to replace",
            path, kConfig);
    require(!is_exported(name) || !fs::is_directory(path),
            "{}: expected a file to replace, found a directory", path);
  }
}

}  // namespace

ModelExport::ModelExport(const std::string& directory)
    : directory_(directory), folder_(directory + "/.wuneng.partial") {
  std::error_code error;
  require(!fs::exists(directory, error) || fs::is_directory(directory, error),
          "{}: expected a directory to write, found a file", directory);
  require(!error, "{}: cannot be written to: {}", directory, error.message());
  if (fs::exists(directory))
    require_replaceable(directory, folder_);
  else
    made_directory_ = fs::create_directories(directory, error);
  if (!error) fs::create_directory(folder_, error);
  require(!error, "{}: cannot be written to: {}", directory, error.message());
  lock_ = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  require(lock_ >= 0, "{}: cannot be opened: {}", folder_, std::strerror(errno));
  // Some network file systems have no locks: there, nothing keeps two exports apart.
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(lock_);
    fail("{}: another process exports into this directory", directory);
  }
  for (const std::string& name : names_in(folder_)) fs::remove_all(folder_ + "/" + name);
}

ModelExport::~ModelExport() {
  std::error_code error;  // the error that is on its way says what happened
  fs::remove_all(folder_, error);
  if (made_directory_) fs::remove(directory_, error);  // where it is empty
  ::close(lock_);
}

void ModelExport::commit() {
  const std::vector<std::string> written = names_in(folder_);
  WUNENG_ASSERT(std::find(written.begin(), written.end(), kConfig) != written.end());
  sync_path(folder_);
  // Without a config.json the directory is no model until all is in place.
  fs::remove(directory_ + "/" + kConfig);
  sync_path(directory_);
  for (const std::string& name : names_in(directory_))
    if (is_exported(name) && !std::binary_search(written.begin(), written.end(), name))
      fs::remove(directory_ + "/" + name);
  for (const std::string& name : written)
    if (name != kConfig) fs::rename(folder_ + "/" + name, directory_ + "/" + name);
  sync_path(directory_);
  fs::rename(folder_ + "/" + kConfig, directory_ + "/" + kConfig);
  sync_path(directory_);
}

std::map<std::string, std::string> read_tokenizer_files_of(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const char* name : kTokenizerFiles)
    if (const std::string path = directory + "/" + name; fs::exists(path))
      files[name] = read_input_file(path, "a tokenizer's file", int64_t{1} << 30);
  return files;
}

}  // namespace wuneng

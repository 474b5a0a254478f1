// The files of a Hugging Face directory that `wuneng convert` writes: all of them, or none.
#pragma once
#include <map>
#include <string>
#include <vector>

namespace wuneng {

// Files are written into a folder inside the directory; commit() puts them in place, config.json last, and
// removes what an older export has beyond them. Without commit() the directory stays as it was.
class ModelExport {
 public:
  // Throws where the directory cannot be written to, where another process exports into it, and where it
  // holds what would be taken for a part of the model: a checkpoint, weights in other files, a tokenizer
  // alone.
  explicit ModelExport(const std::string& directory);
  ~ModelExport();
  ModelExport(const ModelExport&) = delete;

  const std::string& folder() const { return folder_; }  // where files are written
  void commit();

 private:
  std::string directory_, folder_;
  bool made_directory_ = false;
  int lock_ = -1;
};

// The tokenizer's files in a directory, with the chat template: name -> content. None where it has none.
std::map<std::string, std::string> read_tokenizer_files_of(const std::string& directory);

}  // namespace wuneng
